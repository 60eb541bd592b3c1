// Comma-separated values as RFC 4180 defines them: fields in quotes may hold commas, line ends and
// doubled quotes. Fields hold bytes, as names of files do; a byte order mark in front is passed
// over.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct CsvRow {
  int line = 0;  // the line where it begins, from 1
  std::vector<std::string> fields;
};

struct Csv {
  std::string name;  // of the file
  std::vector<std::string> header;
  std::vector<std::string> passed_over;  // names of columns that were not to be kept
  std::vector<CsvRow> rows;  // each with as many fields as the header; empty lines are left out

  // The position of the column of that name, or -1 if there is none. Two are an Error(data).
  int column(std::string_view name) const;
};

// Which columns are kept; an empty function keeps all.
using KeepColumn = std::function<bool(std::string_view name)>;

// Quotes that do not match, rows of another length than the header, rows of more than 1 MiB, more
// than 10,000 columns, NUL bytes (as in UTF-16) and, outside of quotes, carriage returns alone are
// an Error(data) with the file and the line. Beside what is kept, a file takes the memory of one
// row.
Csv read_csv(const std::filesystem::path& file, const KeepColumn& keep = {});
Csv parse_csv(std::string_view text, std::string_view name);

// The text as a field of a file: in quotes if it holds a comma, a quote or a line end.
std::string csv_field(std::string_view text);

}  // namespace engine
