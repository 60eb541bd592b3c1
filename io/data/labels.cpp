#include "io/data/labels.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <unordered_map>

#include "engine/error.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n\v\f";
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

// A whole number as an index is written: "7", not "007".
std::optional<int> index_of(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size() && value >= 0;
  if (!whole || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  return value;
}

struct Row {
  int line = 0;
  std::string path, label, split, fold, group;  // without spaces around all but the path
};

struct Table {
  std::vector<Row> rows;
  bool has_split = false;
  size_t spaced = 0;        // labels with spaces around them
  std::string first_space;  // the first of them: "line 3: "cat ""
};

Table read_table(const fs::path& file, const LabelFile& how) {
  const Csv csv = read_csv(file, [&](std::string_view column) {
    const std::string_view name = trimmed(column);
    return name == how.path_column || name == how.label_column || name == "split" ||
           (how.own && name == "fold") || (!how.group_column.empty() && name == how.group_column);
  });
  const auto column = [&](std::string_view wanted) {
    const auto at = std::ranges::find(csv.header, wanted, trimmed);
    return at == csv.header.end() ? -1 : static_cast<int>(at - csv.header.begin());
  };
  const int path = column(how.path_column), label = column(how.label_column),
            split = column("split"), fold = how.own ? column("fold") : -1,
            group = how.group_column.empty() ? -1 : column(how.group_column);
  std::vector<std::string> header = csv.header;
  header.insert(header.end(), csv.passed_over.begin(), csv.passed_over.end());
  require(path >= 0 && label >= 0, Failure::data,
          "{}, line 1: the header needs the columns {} and {}, it has {}", file.string(),
          how.path_column, how.label_column, fmt::join(header, ","));
  require(group >= 0 || how.group_column.empty() || how.own, Failure::data,
          "{}, line 1: no column {} of groups, the header has {}", file.string(), how.group_column,
          fmt::join(header, ","));
  require(!csv.rows.empty(), Failure::data, "{}: no rows in it", file.string());

  Table table{.has_split = split >= 0};
  for (const CsvRow& row : csv.rows) {
    const auto field = [&](int at) {
      return at < 0 ? std::string() : std::string(trimmed(row.fields[static_cast<size_t>(at)]));
    };
    const std::string& written = row.fields[static_cast<size_t>(label)];
    table.rows.push_back({row.line, row.fields[static_cast<size_t>(path)],
                          how.own ? written : field(label), field(split), field(fold),
                          field(group)});
    require(!table.rows.back().label.empty(), Failure::data, "{}, line {}: the label is empty",
            file.string(), row.line);
    if (written.size() == table.rows.back().label.size()) continue;
    if (table.spaced++ == 0) table.first_space = fmt::format("line {}: \"{}\"", row.line, written);
  }
  return table;
}

LabelKind kind_of(const Table& table, const LabelFile& how) {
  if (how.kind) return *how.kind;
  const bool named = !how.classes.empty() && std::ranges::all_of(table.rows, [&](const Row& row) {
    return std::ranges::find(how.classes, row.label) != how.classes.end();
  });
  std::set<int> indices;
  for (const Row& row : table.rows)
    if (const auto index = index_of(row.label); index && !named)
      indices.insert(*index);
    else
      return LabelKind::names;  // or classes called "0", "1", …
  const bool whole = *indices.rbegin() + 1 == static_cast<int>(indices.size());
  return whole ? LabelKind::indices : LabelKind::names;
}

std::vector<std::string> classes_of(const Table& table, const LabelFile& how, LabelKind kind,
                                    const fs::path& file) {
  if (!how.classes.empty()) return {how.classes.begin(), how.classes.end()};
  std::vector<std::string> classes;
  if (kind == LabelKind::names) {
    for (const Row& row : table.rows) classes.push_back(row.label);
    std::ranges::sort(classes);
    const auto repeated = std::ranges::unique(classes);
    classes.erase(repeated.begin(), repeated.end());
    sort_classes(classes, how.order);
    return classes;
  }
  int largest = 0;
  for (const Row& row : table.rows) {
    const std::optional<int> index = index_of(row.label);
    require(index.has_value(), Failure::data, "{}, line {}: \"{}\" is no class index: 0, 1, …",
            file.string(), row.line, row.label);
    require(static_cast<size_t>(*index) < table.rows.size(), Failure::data,
            "{}, line {}: class index {} with {} rows: indices are 0, 1, …", file.string(),
            row.line, *index, table.rows.size());
    largest = std::max(largest, *index);
  }
  for (int i = 0; i <= largest; ++i) classes.push_back(std::to_string(i));
  return classes;
}

// The position of each row's class.
std::vector<int> positions_of(const Table& table, const std::vector<std::string>& classes,
                              LabelKind kind, const fs::path& file) {
  std::unordered_map<std::string_view, int> by_name;
  for (size_t i = 0; i < classes.size(); ++i) by_name.emplace(classes[i], static_cast<int>(i));
  std::vector<int> positions;
  for (const Row& row : table.rows) {
    const auto found = by_name.find(row.label);
    const std::optional<int> index = index_of(row.label);
    const int position = kind == LabelKind::indices ? index.value_or(-1)
                         : found != by_name.end()   ? found->second
                                                    : -1;
    require(position >= 0 && static_cast<size_t>(position) < classes.size(), Failure::data,
            "{}, line {}: class \"{}\" is not one of the {} classes trained on{}", file.string(),
            row.line, row.label, classes.size(),
            index && kind == LabelKind::names ? "; --label-kind indices takes labels as positions"
                                              : "");
    positions.push_back(position);
  }
  return positions;
}

// The fold that a row names; 0 if it names none.
int fold_of(const Row& row, const fs::path& file) {
  if (row.fold.empty()) return 0;
  const std::optional<int> fold = index_of(row.fold);
  require(fold.value_or(0) > 0, Failure::data, "{}, line {}: \"{}\" is no fold: 1, 2, …",
          file.string(), row.line, row.fold);
  return *fold;
}

// The image of each row.
std::vector<fs::path> images_of(const Table& table, const LabelFile& how, const fs::path& file) {
  constexpr size_t kMost = 100;  // that are named
  std::vector<fs::path> images;
  std::vector<std::string> missing;
  size_t missed = 0;
  const auto is_file = [](const fs::path& path) {
    std::error_code error;
    return fs::is_regular_file(path, error);
  };
  for (const Row& row : table.rows) {
    fs::path image = how.root / (row.path + how.suffix);  // an absolute path stays
    if (!is_file(image)) {
      const fs::path bare = how.root / (std::string(trimmed(row.path)) + how.suffix);
      if (is_file(bare))
        image = bare;
      else if (missed++ < kMost)
        missing.push_back(fmt::format("line {}: no file {}", row.line, image.string()));
    }
    images.push_back(std::move(image));
  }
  if (missed == 1) fail(Failure::data, "{}, {}", file.string(), missing[0]);
  if (missed > missing.size()) missing.push_back(fmt::format("{} more", missed - missing.size()));
  require(missed == 0, Failure::data, "{}: of {} files {} are missing: {}", file.string(),
          table.rows.size(), missed, fmt::join(missing, "; "));
  return images;
}

// How many images lie in the folders of those that the file names without being named.
std::string unnamed_note(const std::vector<fs::path>& images, const fs::path& file) {
  std::map<fs::path, std::set<fs::path>> named;
  for (const fs::path& image : images) named[image.parent_path()].insert(image.filename());
  size_t others = 0;
  for (const auto& [folder, names] : named) {
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      const fs::path name = it->path().filename();
      others +=
          has_image_extension(name) && !name.string().starts_with('.') && !names.contains(name);
    }
  }
  if (others == 0) return {};
  return fmt::format(
      "{}: {} images, and {} more in their folders that it does not name: these are "
      "not used",
      file.string(), images.size(), others);
}

}  // namespace

std::string_view to_string(LabelKind kind) {
  return kind == LabelKind::names ? "class names" : "class indices";
}

Labels read_labels(const fs::path& file, const LabelFile& how) {
  const Table table = read_table(file, how);
  Labels labels{.kind = kind_of(table, how)};
  Dataset& all = labels.all;
  all.classes = classes_of(table, how, labels.kind, file);
  const std::vector<int> positions = positions_of(table, all.classes, labels.kind, file);
  const std::vector<fs::path> images = images_of(table, how, file);

  std::unordered_map<std::string, int> line_of;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const Row& row = table.rows[i];
    const auto [first, added] = line_of.emplace(images[i].lexically_normal().string(), row.line);
    require(added, Failure::data, "{}, line {}: {} is in line {} already", file.string(), row.line,
            row.path, first->second);
    if (table.has_split) {
      const std::optional<Part> part = parse_part(row.split);
      require(part.has_value(), Failure::data, "{}, line {}: split \"{}\": train, val or test",
              file.string(), row.line, row.split);
      labels.parts.push_back(*part);
    }
    labels.lines.push_back(row.line);
    all.samples.push_back({images[i].string(), positions[i], row.group, fold_of(row, file)});
  }
  if (table.spaced > 0)
    labels.notes.push_back(
        fmt::format("{}: {} labels have spaces around them, which are left out, "
                    "the first in {}",
                    file.string(), table.spaced, table.first_space));
  if (std::string note = unnamed_note(images, file); !note.empty())
    labels.notes.push_back(std::move(note));
  return labels;
}

TrainingData training_data(Labels labels, const fs::path& file) {
  std::vector<size_t> trained(labels.all.classes.size());
  for (size_t i = 0; i < labels.parts.size(); ++i)
    if (labels.parts[i] == Part::train) ++trained[static_cast<size_t>(labels.all.samples[i].label)];
  for (size_t i = 0; i < labels.parts.size(); ++i) {
    const auto label = static_cast<size_t>(labels.all.samples[i].label);
    require(trained[label] > 0, Failure::data,
            "{}, line {}: class \"{}\" has no image to train with", file.string(), labels.lines[i],
            labels.all.classes[label]);
  }
  return apply_split(std::move(labels.all), labels.parts);
}

}  // namespace engine
