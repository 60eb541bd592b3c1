#include "io/data/split.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 3> kParts = {"train", "val", "test"};

std::optional<Part> parse_part(std::string_view text) {
  if (text == "valid" || text == "validation") return Part::validation;
  const auto found = std::ranges::find(kParts, text);
  if (found == kParts.end()) return std::nullopt;
  return static_cast<Part>(found - kParts.begin());
}

std::optional<int> whole_number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// Shuffles the images of one group and deals them out to the parts.
void deal(std::vector<uint32_t> images, const Shares& shares, uint64_t seed, uint32_t group,
          std::vector<Part>& parts) {
  Rng rng({.seed = seed, .position = group, .purpose = purpose("split")});
  for (auto left = static_cast<uint32_t>(images.size()); left > 1; --left)
    std::swap(images[left - 1], images[rng.below(left)]);
  const auto counts = split_counts(static_cast<int64_t>(images.size()), shares);
  auto next = images.begin();
  for (size_t part = 0; part < counts.size(); ++part)
    for (int64_t i = 0; i < counts[part]; ++i) parts[*next++] = static_cast<Part>(part);
}

}  // namespace

std::string_view to_string(Part part) {
  return kParts[static_cast<size_t>(part)];
}

std::string_view to_string(LabelKind kind) {
  return kind == LabelKind::names ? "class names" : "class indices";
}

// ---------------------------------------------------------------- choosing a split at random

Shares parse_shares(std::string_view text) {
  Shares shares{};
  size_t count = 0;
  const auto check = [&](bool good) {
    require(good, Failure::usage,
            "--split '{}': two or three shares of train, validation and test that sum to 1, like "
            "0.63/0.07/0.30",
            text);
  };
  for (std::string_view rest = text;; ++count) {
    check(count < shares.size());
    const size_t slash = rest.find('/');
    const std::string_view one = rest.substr(0, slash);
    const auto [end, error] = std::from_chars(one.data(), one.data() + one.size(), shares[count]);
    check(error == std::errc() && end == one.data() + one.size() && shares[count] >= 0 &&
          shares[count] <= 1);
    if (slash == std::string_view::npos) break;
    rest.remove_prefix(slash + 1);
  }
  const double sum = shares[0] + shares[1] + shares[2];
  check(count >= 1 && std::abs(sum - 1) < 1e-6 && shares[0] > 0 && shares[1] > 0);
  return shares;
}

std::array<int64_t, 3> split_counts(int64_t count, const Shares& shares) {
  std::array<int64_t, 3> counts{};
  std::array<double, 3> remainders{};
  for (size_t i = 0; i < 3; ++i) {
    constexpr double kRounding = 1e-9;  // 0.29 · 100 is 28.999…
    const double exact = static_cast<double>(count) * shares[i];
    counts[i] = static_cast<int64_t>(std::floor(exact + kRounding));
    remainders[i] = std::max(0.0, exact - static_cast<double>(counts[i]));
  }
  std::array<size_t, 3> order = {0, 1, 2};
  std::ranges::stable_sort(
      order, [&](size_t a, size_t b) { return remainders[a] > remainders[b] + 1e-9; });
  const int64_t left = count - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (int64_t i = 0; i < left; ++i) ++counts[order[static_cast<size_t>(i)]];
  return counts;
}

std::vector<Part> sample_split(const Dataset& all, const Shares& shares, bool stratify,
                               uint64_t seed) {
  std::vector<std::vector<uint32_t>> groups(stratify ? all.classes.size() : 1);
  for (size_t i = 0; i < all.samples.size(); ++i)
    groups[stratify ? static_cast<size_t>(all.samples[i].label) : 0].push_back(
        static_cast<uint32_t>(i));
  std::vector<Part> parts(all.samples.size());
  for (size_t group = 0; group < groups.size(); ++group)
    deal(std::move(groups[group]), shares, seed, static_cast<uint32_t>(group), parts);
  return parts;
}

std::array<Dataset, 3> by_part(Dataset all, std::span<const Part> parts) {
  std::array<Dataset, 3> sets;
  for (Dataset& set : sets) set.classes = all.classes;
  for (size_t i = 0; i < parts.size(); ++i) {
    Dataset& set = sets[static_cast<size_t>(parts[i])];
    set.samples.push_back(std::move(all.samples[i]));
    if (!all.images.empty()) set.images.push_back(std::move(all.images[i]));
  }
  return sets;
}

TrainingData apply_split(Dataset all, std::span<const Part> parts) {
  auto [train, validation, test] = by_part(std::move(all), parts);
  require(!validation.samples.empty(), Failure::data,
          "the split leaves none of {} images for validation", parts.size());
  std::vector<size_t> counts(train.classes.size());
  for (const Sample& sample : train.samples) ++counts[static_cast<size_t>(sample.label)];
  for (size_t i = 0; i < counts.size(); ++i)
    require(counts[i] > 0, Failure::data, "class \"{}\" has no image to train with",
            train.classes[i]);
  TrainingData data{.train = std::move(train), .validation = std::move(validation), .test = {}};
  if (!test.samples.empty()) data.test = std::move(test);
  return data;
}

std::string split_csv(const TrainingData& data, const fs::path& root) {
  std::string text = "path,label,split\n";
  const auto add = [&](const Dataset& set, Part part) {
    for (const Sample& sample : set.samples) {
      const fs::path relative = fs::path(sample.path).lexically_relative(root);
      const bool below = !relative.empty() && *relative.begin() != "..";
      text +=
          fmt::format("{},{},{}\n", csv_field(below ? relative.string() : sample.path),
                      csv_field(set.classes[static_cast<size_t>(sample.label)]), to_string(part));
    }
  };
  add(data.train, Part::train);
  add(data.validation, Part::validation);
  if (data.test) add(*data.test, Part::test);
  return text;
}

// ---------------------------------------------------------------- reading a split

Labels read_labels(const fs::path& file, const fs::path& root, ClassOrder order,
                   std::span<const std::string> classes) {
  const Csv csv = read_csv(file);
  const std::string name = file.string();
  const int path_at = csv.column("path"), label_at = csv.column("label"),
            split_at = csv.column("split");
  require(path_at >= 0 && label_at >= 0, Failure::data,
          "{}, line 1: the header needs the columns path and label, it has {}", name,
          fmt::join(csv.header, ","));
  require(!csv.rows.empty(), Failure::data, "{}: no rows in it", name);

  const auto label_of = [&](const CsvRow& row) -> const std::string& {
    return row.fields[static_cast<size_t>(label_at)];
  };
  const auto is_class = [&](const std::string& text) {
    return std::ranges::find(classes, text) != classes.end();
  };
  const bool numbers = std::ranges::all_of(
      csv.rows, [&](const CsvRow& row) { return whole_number(label_of(row)).has_value(); });
  const bool names = !numbers || std::ranges::all_of(csv.rows, [&](const CsvRow& row) {
    return is_class(label_of(row));  // classes called "0", "1", …
  });
  Labels labels{.kind = names ? LabelKind::names : LabelKind::indices};
  Dataset& all = labels.all;
  all.classes.assign(classes.begin(), classes.end());
  if (classes.empty() && names) {
    for (const CsvRow& row : csv.rows) all.classes.push_back(label_of(row));
    sort_classes(all.classes, order);
    const auto repeated = std::ranges::unique(all.classes);
    all.classes.erase(repeated.begin(), repeated.end());
  } else if (classes.empty()) {
    int largest = 0;
    for (const CsvRow& row : csv.rows) largest = std::max(largest, *whole_number(label_of(row)));
    require(static_cast<size_t>(largest) < csv.rows.size(), Failure::data,
            "{}: class index {} with {} rows: indices are 0, 1, …", name, largest, csv.rows.size());
    for (int i = 0; i <= largest; ++i) all.classes.push_back(std::to_string(i));
  }

  std::unordered_map<std::string_view, int> index;
  for (size_t i = 0; i < all.classes.size(); ++i)
    index.emplace(all.classes[i], static_cast<int>(i));
  std::unordered_map<std::string, int> line_of;
  for (const CsvRow& row : csv.rows) {
    const std::string &path = row.fields[static_cast<size_t>(path_at)], &label = label_of(row);
    require(!label.empty(), Failure::data, "{}, line {}: the label is empty", name, row.line);
    int position = names ? 0 : *whole_number(label);
    if (names) {
      const auto found = index.find(label);
      position = found == index.end() ? static_cast<int>(all.classes.size()) : found->second;
    }
    require(static_cast<size_t>(position) < all.classes.size(), Failure::data,
            "{}, line {}: class \"{}\" is not one of the {} classes trained on", name, row.line,
            label, all.classes.size());
    const fs::path image = root / path;  // an absolute path stays
    std::error_code error;
    require(!path.empty() && fs::is_regular_file(image, error), Failure::data,
            "{}, line {}: no file {}", name, row.line, image.string());
    const auto [first, added] = line_of.emplace(image.lexically_normal().string(), row.line);
    require(added, Failure::data, "{}, line {}: {} is in line {} already", name, row.line, path,
            first->second);
    if (split_at >= 0) {
      const std::string& split = row.fields[static_cast<size_t>(split_at)];
      const std::optional<Part> part = parse_part(split);
      require(part.has_value(), Failure::data, "{}, line {}: split \"{}\": train, val or test",
              name, row.line, split);
      labels.parts.push_back(*part);
    }
    labels.lines.push_back(row.line);
    all.samples.push_back({image.string(), position});
  }
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
