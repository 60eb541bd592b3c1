#include "io/data/groups.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <regex>
#include <unordered_map>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

class Pattern {
 public:
  explicit Pattern(const std::string& text) try
      : text_(text), regex_(text), in_path_(text.find('/') != std::string::npos) {
  } catch (const std::regex_error& error) {
    fail(Failure::usage, "--group-pattern '{}': no regular expression: {}", text, error.what());
  }

  std::optional<std::string> group_of(const fs::path& file, const fs::path& root) const {
    const std::string subject =
        in_path_ ? file.lexically_proximate(root).string() : file.filename().string();
    std::smatch match;
    try {
      if (!std::regex_search(subject, match, regex_)) return std::nullopt;
    } catch (const std::regex_error& error) {
      fail(Failure::usage, "--group-pattern '{}': {}: {}", text_, file.string(), error.what());
    }
    return match.size() > 1 ? match[1].str() : match[0].str();
  }

 private:
  std::string text_;
  std::regex regex_;
  bool in_path_;
};

// Sets of samples that grow together (union by the smaller number, with halved paths).
class Units {
 public:
  explicit Units(size_t count) : parent_(count) { std::iota(parent_.begin(), parent_.end(), 0u); }

  uint32_t root(uint32_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void join(uint32_t a, uint32_t b) {
    a = root(a), b = root(b);
    parent_[std::max(a, b)] = std::min(a, b);
  }

 private:
  std::vector<uint32_t> parent_;
};

}  // namespace

size_t set_groups(Dataset& data, const std::string& pattern, const fs::path& root) {
  const Pattern compiled(pattern);
  size_t unmatched = 0;
  for (Sample& sample : data.samples) {
    const auto group = compiled.group_of(sample.path, root);
    sample.group = group.value_or("");
    unmatched += sample.group.empty();
  }
  require(unmatched < data.samples.size() || data.samples.empty(), Failure::usage,
          "--group-pattern '{}': matches none of {} images, the first {}", pattern,
          data.samples.size(), data.samples.front().path);
  return unmatched;
}

std::vector<uint32_t> inseparable(const Dataset& data, std::span<const Copies> copies) {
  const auto count = static_cast<uint32_t>(data.samples.size());
  Units units(count);
  std::unordered_map<std::string_view, uint32_t> first;
  for (uint32_t i = 0; i < count; ++i)
    if (const std::string& group = data.samples[i].group; !group.empty())
      units.join(i, first.emplace(group, i).first->second);
  for (const Copies& same : copies)
    for (const Copy& copy : same)
      units.join(static_cast<uint32_t>(copy.sample), static_cast<uint32_t>(same.front().sample));
  std::vector<uint32_t> numbers(count);
  uint32_t next = 0;
  for (uint32_t i = 0; i < count; ++i)  // the first sample of a unit is its root
    numbers[i] = units.root(i) == i ? next++ : numbers[units.root(i)];
  return numbers;
}

std::vector<Unit> sample_large_units(std::span<const uint32_t> units,
                                     std::span<const size_t> strata, uint64_t seed) {
  std::vector<Unit> all;
  for (uint32_t i = 0; i < units.size(); ++i) {
    if (units[i] >= all.size()) all.resize(units[i] + 1);
    all[units[i]].images.push_back(i);
    ++all[units[i]].counts[strata[i]];
  }
  std::erase_if(all, [](const Unit& unit) { return unit.images.size() < 2; });
  Rng rng({.seed = seed, .purpose = purpose("split units")});
  for (auto left = static_cast<uint32_t>(all.size()); left > 1; --left)
    std::swap(all[left - 1], all[rng.below(left)]);
  std::ranges::stable_sort(all, std::ranges::greater(),
                           [](const Unit& unit) { return unit.images.size(); });
  return all;
}

std::vector<Copies> shared_groups(std::span<const Dataset* const> sets) {
  std::unordered_map<std::string_view, Copies> members;
  for (size_t set = 0; set < sets.size(); ++set)
    for (size_t i = 0; i < sets[set]->samples.size(); ++i)
      if (const std::string& group = sets[set]->samples[i].group; !group.empty())
        members[group].push_back({set, i});
  std::vector<Copies> shared;
  for (auto& [_, copies] : members)
    if (copies.front().set != copies.back().set) shared.push_back(std::move(copies));
  sort_by_first(shared);
  return shared;
}

std::string groups_csv(std::span<const Copies> groups, std::span<const Dataset* const> sets,
                       std::span<const std::string> names) {
  std::string text = "group,split,label,path\n";
  for (const Copies& group : groups)
    for (const Copy& copy : group) {
      const Sample& sample = sets[copy.set]->samples[copy.sample];
      text += fmt::format("{},{},{},{}\n", csv_field(sample.group), csv_field(names[copy.set]),
                          csv_field(label_text(*sets[copy.set], sample)), csv_field(sample.path));
    }
  return text;
}

}  // namespace engine
