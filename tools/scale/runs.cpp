#include "tools/scale/runs.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/files/csv.h"

namespace engine {
namespace {

// A row is a line, whatever a message holds.
std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

std::string to_field(const std::string& value) {
  return csv_field(one_line(value));
}
std::string to_field(double value) {
  return csv_number(value);
}
template <class Integer>
requires std::is_integral_v<Integer> std::string to_field(Integer value) {
  return std::to_string(value);
}

struct FieldReader {
  const CsvRow& row;
  const std::string& file;
  size_t at = 0;

  void operator()(std::string_view, std::string& value) { value = row.fields[at++]; }
  template <class Number>
  void operator()(std::string_view name, Number& value) {
    const std::string& text = row.fields[at++];
    if constexpr (std::is_floating_point_v<Number>)
      if (text.empty()) return;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    require(error == std::errc() && end == text.data() + text.size(), Failure::data,
            "{}, line {}: {} is '{}', which is no number", file, row.line, name, text);
  }
};

bool same_run(const RunRow& a, const RunRow& b) {
  return a.repeat == b.repeat && configuration_of(a) == configuration_of(b);
}

}  // namespace

std::string csv_number(double value) {
  return std::isnan(value) ? "" : fmt::format("{:.7g}", value);
}

std::string runs_header() {
  std::string line;
  const RunRow row;
  visit_columns(row, [&](std::string_view name, const auto&) {
    if (!line.empty()) line += ',';
    line += name;
  });
  return line + '\n';
}

std::string to_csv(const RunRow& row) {
  std::string line;
  visit_columns(row, [&](std::string_view name, const auto& value) {
    if (name != "system") line += ',';
    line += to_field(value);
  });
  return line + '\n';
}

std::string configuration_of(const RunRow& r) {
  return fmt::format("{}/{}/{}/{}/{}/{}/{}/{}/{}/{}/{}/{}", r.system, r.model, r.image_size,
                     r.precision, r.nodes, r.ranks, r.threads_per_rank, r.batch_per_rank,
                     r.global_batch, r.scaling, r.data, r.loader_threads);
}

std::vector<RunRow> read_runs(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes = read_file(file);
  const std::string_view text = as_text(bytes);
  const size_t whole = text.rfind('\n');
  require(whole != std::string_view::npos && text.substr(0, text.find('\n') + 1) == runs_header(),
          Failure::data, "{}: no runs.csv of engine scale", file.string());
  const Csv csv = parse_csv(text.substr(0, whole + 1), file.string());
  const std::string name = file.string();
  std::vector<RunRow> rows;
  for (const CsvRow& line : csv.rows) visit_columns(rows.emplace_back(), FieldReader{line, name});
  return rows;
}

RunsFile::RunsFile(std::filesystem::path file, bool resume) : file_(std::move(file)) {
  const bool there = std::filesystem::exists(file_);
  require(resume || !there, Failure::usage, "--out: {} is there; --resume goes on with it",
          file_.string());
  if (there) rows_ = read_runs(file_);
  std::erase_if(rows_, [](const RunRow& row) { return !row.complete(); });
  std::string text = runs_header();
  for (const RunRow& row : rows_) text += to_csv(row);
  write_file_atomically(file_, text);
  out_.open(file_, std::ios::app | std::ios::binary);
}

bool RunsFile::has(const RunRow& wanted) const {
  return std::any_of(rows_.begin(), rows_.end(),
                     [&](const RunRow& row) { return same_run(row, wanted); });
}

void RunsFile::append(const RunRow& row) {
  out_ << to_csv(row) << std::flush;
  require(out_.good(), Failure::data, "{}: cannot be written", file_.string());
  rows_.push_back(row);
}

}  // namespace engine
