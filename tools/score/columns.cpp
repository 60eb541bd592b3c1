#include "tools/score/columns.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "engine/error.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostNumbers = 12, kMostTexts = 50, kIntervals = 4;

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n\v\f";
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(kSpaces) - first + 1));
}

std::optional<double> number_in(const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::vector<std::string> names_in(const std::string& text) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    names.push_back(trimmed(std::string_view(text).substr(begin, end - begin)));
    require(!names.back().empty() && std::ranges::count(names, names.back()) == 1, Failure::usage,
            "--by {}: names of columns with commas between, each once", text);
    begin = end + 1;
  }
  return names;
}

// As numpy.quantile: interpolated between two of the sorted values.
double quantile_of(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const double above = sorted[std::min(below + 1, sorted.size() - 1)];
  return sorted[below] + (place - static_cast<double>(below)) * (above - sorted[below]);
}

// Replaces each value by the interval that it lies in.
void cut(Column& column) {
  std::vector<double> sorted;
  for (const std::string& value : column.values)
    if (!value.empty()) sorted.push_back(*number_in(value));
  std::ranges::sort(sorted);
  std::vector<double> bounds;
  for (size_t i = 0; i <= kIntervals; ++i)
    bounds.push_back(quantile_of(sorted, double(i) / kIntervals));
  bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
  std::vector<std::string> labels;
  for (size_t i = 0; i + 1 < bounds.size(); ++i)
    labels.push_back(
        fmt::format("[{:g}, {:g}{}", bounds[i], bounds[i + 1], i + 2 == bounds.size() ? "]" : ")"));
  for (std::string& value : column.values) {
    if (value.empty()) continue;
    const auto above = std::ranges::upper_bound(bounds, *number_in(value)) - bounds.begin();
    value = labels[std::clamp<ptrdiff_t>(above - 1, 0, ptrdiff_t(labels.size()) - 1)];
  }
  column.order = std::move(labels);
}

}  // namespace

void arrange(Column& column) {
  std::set<std::string> different(column.values.begin(), column.values.end());
  const bool some_empty = different.erase("") > 0;
  const bool numbers =
      std::ranges::all_of(different, [](const std::string& v) { return number_in(v).has_value(); });
  column.order.assign(different.begin(), different.end());
  if (numbers && different.size() > kMostNumbers) {
    cut(column);
  } else if (numbers) {
    std::ranges::stable_sort(column.order, {}, [](const auto& v) { return *number_in(v); });
  } else {
    require(different.size() <= kMostTexts, Failure::usage,
            "--by {}: the column has {} different values, more than {}: \"{}\", \"{}\", …",
            column.name, different.size(), kMostTexts, column.order[0], column.order[1]);
  }
  if (some_empty) column.order.emplace_back();
}

std::vector<Column> read_columns(const ImageSetOptions& o, const std::string& names,
                                 const Dataset& data) {
  if (names.empty()) return {};
  require(!o.labels.empty(), Failure::usage, "--by {}: columns are read from --labels", names);
  const std::vector<std::string> wanted = names_in(names);
  const std::string path_column = o.path_column.value_or("path");
  const Csv csv = read_csv(o.labels, [&](std::string_view column) {
    const std::string name = trimmed(column);
    return name == path_column || std::ranges::find(wanted, name) != wanted.end();
  });
  std::vector<std::string> header;
  for (const std::string& column : csv.header) header.push_back(trimmed(column));
  const auto place = [&](const std::string& name) {
    const auto at = std::ranges::find(header, name);
    if (at == header.end()) {
      std::vector<std::string> all = header;
      all.insert(all.end(), csv.passed_over.begin(), csv.passed_over.end());
      fail(Failure::usage, "--by {}: {} has no column {}; there are {}", names, o.labels.string(),
           name, fmt::join(all, ", "));
    }
    return static_cast<size_t>(at - header.begin());
  };
  const size_t path = place(path_column);
  std::unordered_map<std::string, const CsvRow*> rows;
  const std::string suffix = o.image_suffix.value_or("");
  for (const CsvRow& row : csv.rows)
    for (const std::string& written : {row.fields[path], trimmed(row.fields[path])})
      rows.emplace((o.root() / (written + suffix)).lexically_normal().string(), &row);

  std::vector<Column> columns;
  for (const std::string& name : wanted) {
    const size_t at = place(name);
    Column column{.name = name};
    bool any = data.samples.empty();
    for (const Sample& sample : data.samples) {
      const auto row = rows.find(fs::path(sample.path).lexically_normal().string());
      column.values.push_back(row == rows.end() ? "" : trimmed(row->second->fields[at]));
      any = any || row != rows.end();
    }
    require(any, Failure::data, "--by {}: {} names none of the {} images, as {}", names,
            o.labels.string(), data.samples.size(), data.samples.front().path);
    arrange(column);
    columns.push_back(std::move(column));
  }
  return columns;
}

}  // namespace engine
