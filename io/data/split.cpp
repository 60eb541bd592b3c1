#include "io/data/split.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/data/groups.h"
#include "io/data/label_split.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 3> kParts = {"train", "val", "test"};

using Counts = std::array<int64_t, 3>;  // of images, by part

// Shuffles the images of one stratum and deals them out to the parts.
void deal(std::vector<uint32_t> images, const Counts& counts, uint64_t seed, uint32_t stratum,
          std::vector<Part>& parts) {
  Rng rng({.seed = seed, .position = stratum, .purpose = purpose("split")});
  for (auto left = static_cast<uint32_t>(images.size()); left > 1; --left)
    std::swap(images[left - 1], images[rng.below(left)]);
  auto next = images.begin();
  for (size_t part = 0; part < counts.size(); ++part)
    for (int64_t i = 0; i < counts[part]; ++i) parts[*next++] = static_cast<Part>(part);
}

// The part that takes a unit: the one that it overfills least; of several the one that lacks the
// largest share of what it should have in the unit's strata.
size_t part_for(const Unit& unit, std::span<const Counts> wanted, std::span<const Counts> left) {
  size_t best = 0;
  int64_t least_over = INT64_MAX;
  double most_need = 0;
  for (size_t part = 0; part < 3; ++part) {
    int64_t over = 0;
    double need = 0;
    for (const auto& [stratum, count] : unit.counts) {
      over += std::max<int64_t>(0, count - std::max<int64_t>(0, left[stratum][part]));
      if (wanted[stratum][part] > 0)
        need += static_cast<double>(count * left[stratum][part]) /
                static_cast<double>(wanted[stratum][part]);
    }
    if (over > least_over || (over == least_over && need <= most_need)) continue;
    best = part, least_over = over, most_need = need;
  }
  return best;
}

// Makes the counts sum to `images`, where units have overfilled parts: at the cost of the largest.
void fit(Counts& counts, int64_t images) {
  for (int64_t& count : counts) count = std::max<int64_t>(0, count);
  for (int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0}); sum > images; --sum)
    --*std::ranges::max_element(counts);
}

}  // namespace

std::string_view to_string(Part part) {
  return kParts[static_cast<size_t>(part)];
}

std::optional<Part> parse_part(std::string_view text) {
  std::string name(text);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (name == "train" || name == "training") return Part::train;
  if (name == "val" || name == "valid" || name == "validation") return Part::validation;
  if (name == "test" || name == "testing") return Part::test;
  return std::nullopt;
}

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
                               uint64_t seed, std::span<const uint32_t> units) {
  std::vector<size_t> strata(all.samples.size());
  if (stratify && all.task == Task::labels) return label_split(all, shares, seed, units);
  if (stratify)
    for (size_t i = 0; i < strata.size(); ++i)
      strata[i] = static_cast<size_t>(all.samples[i].label);
  std::vector<Counts> wanted(stratify ? all.classes.size() : 1);
  for (const size_t stratum : strata) ++wanted[stratum][0];
  for (Counts& counts : wanted) counts = split_counts(counts[0], shares);

  std::vector<Part> parts(all.samples.size());
  std::vector<bool> dealt(all.samples.size());
  std::vector<Counts> left = wanted;
  for (const Unit& unit : sample_large_units(units, strata, seed)) {
    const size_t part = part_for(unit, wanted, left);
    for (const auto& [stratum, count] : unit.counts) left[stratum][part] -= count;
    for (const uint32_t image : unit.images)
      parts[image] = static_cast<Part>(part), dealt[image] = true;
  }
  std::vector<std::vector<uint32_t>> single(wanted.size());
  for (uint32_t i = 0; i < strata.size(); ++i)
    if (!dealt[i]) single[strata[i]].push_back(i);
  for (size_t stratum = 0; stratum < single.size(); ++stratum) {
    fit(left[stratum], static_cast<int64_t>(single[stratum].size()));
    deal(std::move(single[stratum]), left[stratum], seed, static_cast<uint32_t>(stratum), parts);
  }
  return parts;
}

std::array<Dataset, 3> by_part(Dataset all, std::span<const Part> parts) {
  std::array<Dataset, 3> sets;
  for (Dataset& set : sets) set.task = all.task, set.classes = all.classes;
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
  const std::vector<size_t> counts = images_by_class(train);
  for (size_t i = 0; i < counts.size(); ++i)
    require(counts[i] > 0, Failure::data, "class \"{}\" has no image to train with",
            train.classes[i]);
  TrainingData data{.train = std::move(train), .validation = std::move(validation), .test = {}};
  if (!test.samples.empty()) data.test = std::move(test);
  return data;
}

std::string split_csv(const TrainingData& data, const fs::path& root) {
  std::vector<std::pair<const Dataset*, Part>> sets = {{&data.train, Part::train},
                                                       {&data.validation, Part::validation}};
  if (data.test) sets.push_back({&*data.test, Part::test});
  const auto any = [&](const auto& has) {
    return std::ranges::any_of(
        sets, [&](const auto& set) { return std::ranges::any_of(set.first->samples, has); });
  };
  const bool folded = any([](const Sample& s) { return s.fold > 0; });
  const bool grouped = any([](const Sample& s) { return !s.group.empty(); });
  const bool of_labels = data.train.task == Task::labels;
  std::string text = of_labels ? "path,split" : "path,label,split";
  if (folded) text += ",fold";
  if (grouped) text += ",group";
  for (size_t c = 0; of_labels && c < data.train.classes.size(); ++c)
    text += ',' + csv_field(kLabelColumn + data.train.classes[c]);
  text += '\n';
  for (const auto& [set, part] : sets)
    for (const Sample& sample : set->samples) {
      const fs::path relative = fs::path(sample.path).lexically_relative(root);
      const bool below = !relative.empty() && *relative.begin() != "..";
      text += csv_field(below ? relative.string() : sample.path);
      if (!of_labels) text += ',' + csv_field(label_text(*set, sample));
      text += fmt::format(",{}", to_string(part));
      if (folded) text += sample.fold > 0 ? fmt::format(",{}", sample.fold) : ",";
      if (grouped) text += ',' + csv_field(sample.group);
      for (const Presence presence : sample.labels) text += ',' + std::string(text_of(presence));
      text += '\n';
    }
  return text;
}

}  // namespace engine
