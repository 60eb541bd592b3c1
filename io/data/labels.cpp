#include "io/data/labels.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <unordered_map>

#include "engine/error.h"
#include "io/data/presence.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

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
  std::vector<Presence> labels = {};            // by Table::names
  std::vector<std::string> list = {};           // of a separated list
};

struct Table {
  std::vector<Row> rows;
  bool has_split = false;
  size_t spaced = 0;        // labels with spaces around them
  std::string first_space;  // the first of them: "line 3: "cat ""
  Task task = Task::classes;
  std::vector<std::string> names;  // of the columns of several labels
};

// Which columns of the header hold a label each, and of which label.
struct LabelColumns {
  std::vector<int> at;
  std::vector<std::string> names;
};

LabelColumns label_columns(const Csv& csv, const LabelFile& how, const fs::path& file) {
  LabelColumns columns;
  for (size_t i = 0; how.own && i < csv.header.size(); ++i)
    if (csv.header[i].starts_with(kLabelColumn)) {
      columns.at.push_back(static_cast<int>(i));
      columns.names.push_back(csv.header[i].substr(sizeof kLabelColumn - 1));
    }
  for (const std::string& name : how.label_columns) {
    const auto at = std::ranges::find(csv.header, name, trimmed);
    require(at != csv.header.end(), Failure::data, "{}, line 1: no column {} of a label",
            file.string(), name);
    require(std::ranges::find(columns.names, name) == columns.names.end(), Failure::usage,
            "--label-columns: {} is named twice", name);
    columns.at.push_back(static_cast<int>(at - csv.header.begin()));
    columns.names.push_back(name);
  }
  return columns;
}

Table read_table(const fs::path& file, const LabelFile& how) {
  const Csv csv = read_csv(file, [&](std::string_view column) {
    const std::string_view name = trimmed(column);
    return name == how.path_column || name == how.label_column || name == "split" ||
           (!how.group_column.empty() && name == how.group_column) ||
           std::ranges::find(how.label_columns, name) != how.label_columns.end() ||
           (how.own && (name == "fold" || name.starts_with(kLabelColumn)));
  });
  std::set<std::string_view> named;
  for (const std::string& name : csv.header)
    require(named.insert(trimmed(name)).second, Failure::data,
            "{}, line 1: two columns are called {}", file.string(), trimmed(name));
  const auto column = [&](std::string_view wanted) {
    const auto at = std::ranges::find(csv.header, wanted, trimmed);
    return at == csv.header.end() ? -1 : static_cast<int>(at - csv.header.begin());
  };
  const int path = column(how.path_column), label = column(how.label_column),
            split = column("split"), fold = how.own ? column("fold") : -1,
            group = how.group_column.empty() ? -1 : column(how.group_column);
  std::vector<std::string> header = csv.header;
  header.insert(header.end(), csv.passed_over.begin(), csv.passed_over.end());
  const LabelColumns several = label_columns(csv, how, file);
  require(path >= 0 && (label >= 0 || !several.at.empty()), Failure::data,
          "{}, line 1: the header needs the columns {} and {}, it has {}", file.string(),
          how.path_column, several.at.empty() ? how.label_column : "of labels",
          fmt::join(header, ","));
  require(group >= 0 || how.group_column.empty() || how.own, Failure::data,
          "{}, line 1: no column {} of groups, the header has {}", file.string(), how.group_column,
          fmt::join(header, ","));
  require(!csv.rows.empty(), Failure::data, "{}: no rows in it", file.string());

  Table table{.has_split = split >= 0, .names = several.names};
  if (!several.at.empty() || !how.separator.empty()) table.task = Task::labels;
  for (const CsvRow& row : csv.rows) {
    const auto field = [&](int at) {
      return at < 0 ? std::string() : std::string(trimmed(row.fields[static_cast<size_t>(at)]));
    };
    const auto where = [&](std::string_view name) {
      return fmt::format("{}, line {}, column {}", file.string(), row.line, name);
    };
    if (table.task == Task::labels) {
      Row& read = table.rows.emplace_back(Row{row.line,
                                              row.fields[static_cast<size_t>(path)],
                                              {},
                                              field(split),
                                              field(fold),
                                              field(group)});
      for (size_t c = 0; c < several.at.size(); ++c)
        read.labels.push_back(parse_presence(row.fields[static_cast<size_t>(several.at[c])],
                                             [&] { return where(several.names[c]); }));
      if (several.at.empty())
        read.list = parse_label_list(row.fields[static_cast<size_t>(label)], how.separator,
                                     [&] { return where(how.label_column); });
      continue;
    }
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
  if (table.task == Task::labels) return LabelKind::names;
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
  const bool whole = *indices.rbegin() == static_cast<int>(indices.size()) - 1;
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

// ---------------------------------------------------------------- several labels

std::vector<std::string> label_names(const Table& table, const LabelFile& how,
                                     const fs::path& file) {
  if (!how.classes.empty()) {
    for (const std::string& name : how.classes)
      require(table.names.empty() || std::ranges::find(table.names, name) != table.names.end(),
              Failure::data, "{}: no column of the label \"{}\", one of the {} trained on",
              file.string(), name, how.classes.size());
    return {how.classes.begin(), how.classes.end()};
  }
  if (!table.names.empty()) return table.names;
  std::set<std::string> names;
  for (const Row& row : table.rows) names.insert(row.list.begin(), row.list.end());
  require(!names.empty(), Failure::data, "{}: no image has a label", file.string());
  std::vector<std::string> sorted(names.begin(), names.end());
  sort_classes(sorted, how.order);
  return sorted;
}

// Puts the labels of every row in the order of `names`.
void place_labels(Table& table, const std::vector<std::string>& names, const fs::path& file) {
  std::unordered_map<std::string_view, size_t> by_name;
  for (size_t c = 0; c < names.size(); ++c) by_name.emplace(names[c], c);
  const auto place = [&](const std::string& name, int line) {
    const auto at = by_name.find(name);
    require(at != by_name.end(), Failure::data,
            "{}, line {}: label \"{}\" is not one of the {} trained on", file.string(), line, name,
            names.size());
    return at->second;
  };
  for (Row& row : table.rows) {
    std::vector<Presence> labels(names.size(), Presence::absent);
    for (size_t c = 0; c < row.labels.size(); ++c) labels[place(table.names[c], 1)] = row.labels[c];
    for (const std::string& name : row.list) labels[place(name, row.line)] = Presence::present;
    row.labels = std::move(labels);
  }
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
  Table table = read_table(file, how);
  Labels labels{.kind = kind_of(table, how)};
  Dataset& all = labels.all;
  all.task = table.task;
  std::vector<int> positions(table.rows.size());  // all 0 of several labels
  if (table.task == Task::labels) {
    all.classes = label_names(table, how, file);
    place_labels(table, all.classes, file);
  } else {
    all.classes = classes_of(table, how, labels.kind, file);
    positions = positions_of(table, all.classes, labels.kind, file);
  }
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
    all.samples.push_back(
        {images[i].string(), positions[i], row.group, fold_of(row, file), row.labels});
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
  const Dataset& all = labels.all;
  std::vector<size_t> trained(all.classes.size());
  for (size_t i = 0; i < labels.parts.size(); ++i)
    if (labels.parts[i] == Part::train)
      for_each_class(all, all.samples[i], [&](size_t c) { ++trained[c]; });
  for (size_t i = 0; i < labels.parts.size(); ++i)
    for_each_class(all, all.samples[i], [&](size_t c) {
      require(trained[c] > 0, Failure::data, "{}, line {}: class \"{}\" has no image to train with",
              file.string(), labels.lines[i], all.classes[c]);
    });
  return apply_split(std::move(labels.all), labels.parts);
}

}  // namespace engine
