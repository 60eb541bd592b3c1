// Comma-separated values as RFC 4180 has them: fields in quotes may hold commas, line ends and
// doubled quotes. UTF-8, with or without a byte order mark.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct CsvRow {
  int line = 0;  // where it begins, from 1
  std::vector<std::string> fields;
};

struct Csv {
  std::vector<std::string> header;
  std::vector<CsvRow> rows;  // each with as many fields as the header; empty lines are left out

  // Position of a column, -1 if there is none of that name.
  int column(std::string_view name) const;
};

// Error(data) with file and line: quotes that do not match, another number of fields, no UTF-8.
Csv read_csv(const std::filesystem::path& file);
Csv parse_csv(std::string_view text, std::string_view name);

// As it stands in a file: in quotes where it holds a comma, a quote or a line end.
std::string csv_field(std::string_view text);

}  // namespace engine
