// Comma-separated values as RFC 4180 defines them: fields in quotes may hold commas, line ends and
// doubled quotes. Fields hold bytes, as names of files do; a byte order mark in front is passed
// over.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct CsvRow {
  int line = 0;  // the line where it begins, from 1
  std::vector<std::string> fields;
};

struct Csv {
  std::vector<std::string> header;
  std::vector<CsvRow> rows;  // each with as many fields as the header; empty lines are left out

  // The position of the column of that name, or -1 if there is none.
  int column(std::string_view name) const;
};

// Quotes that do not match, and rows of another length than the header, are an Error(data) with the
// file and the line.
Csv read_csv(const std::filesystem::path& file);
Csv parse_csv(std::string_view text, std::string_view name);

// The text as a field of a file: in quotes if it holds a comma, a quote or a line end.
std::string csv_field(std::string_view text);

}  // namespace engine
