#include "io/data/duplicates.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "engine/error.h"
#include "io/data/pack.h"
#include "io/data/source_file.h"
#include "io/files/csv.h"

namespace engine {
namespace {

PackSource source_of(const Dataset& set, size_t i) {
  return {set.samples[i].path, set.images.empty() ? nullptr : &set.images[i]};
}

uint64_t size_of(const Dataset& set, size_t i) {
  return set.pack ? set.pack->record(set.records[i]).size : source_file(source_of(set, i)).size;
}

uint64_t hash_of(const Dataset& set, size_t i) {
  return set.pack ? set.pack->record(set.records[i]).content : content_hash(source_of(set, i));
}

// The groups of two or more images with one key; images whose key is 0 are left out.
template <class Key>
std::vector<Copies> group(std::span<const Copy> all, bool across, const Key& key) {
  std::unordered_map<uint64_t, Copies> by_key;
  for (size_t i = 0; i < all.size(); ++i)
    if (const uint64_t value = key(i); value != 0) by_key[value].push_back(all[i]);
  std::vector<Copies> groups;
  for (auto& [_, copies] : by_key) {
    const bool spread = copies.front().set != copies.back().set;  // they are in order
    if (copies.size() > 1 && (spread || !across)) groups.push_back(std::move(copies));
  }
  return groups;
}

}  // namespace

std::vector<Copies> find_duplicates(std::span<const Dataset* const> sets, bool across,
                                    const ParallelOptions& parallel) {
  std::vector<Copy> all;
  for (size_t set = 0; set < sets.size(); ++set)
    for (size_t i = 0; i < sets[set]->samples.size(); ++i) all.push_back({set, i});
  std::vector<uint64_t> keys(all.size());
  ParallelOptions quiet = parallel;
  quiet.progress = nullptr;
  parallel_for(all.size(), quiet,
               [&](size_t i) { keys[i] = size_of(*sets[all[i].set], all[i].sample); });
  std::vector<Copy> same_size;
  for (const Copies& copies : group(all, across, [&](size_t i) { return keys[i]; }))
    same_size.insert(same_size.end(), copies.begin(), copies.end());
  std::ranges::sort(same_size, {}, [](const Copy& c) { return std::pair(c.set, c.sample); });
  parallel_for(same_size.size(), parallel,
               [&](size_t i) { keys[i] = hash_of(*sets[same_size[i].set], same_size[i].sample); });
  std::vector<Copies> duplicates = group(same_size, across, [&](size_t i) { return keys[i]; });
  sort_by_first(duplicates);
  return duplicates;
}

void sort_by_first(std::vector<Copies>& all) {
  std::ranges::sort(all, {}, [](const Copies& copies) {
    return std::pair(copies.front().set, copies.front().sample);
  });
}

std::string duplicates_csv(std::span<const Copies> duplicates, std::span<const Dataset* const> sets,
                           std::span<const std::string> names) {
  std::string text = "copy,split,label,path\n";
  for (size_t i = 0; i < duplicates.size(); ++i)
    for (const Copy& copy : duplicates[i]) {
      const Dataset& set = *sets[copy.set];
      const Sample& sample = set.samples[copy.sample];
      text += fmt::format("{},{},{},{}\n", i, csv_field(names[copy.set]),
                          csv_field(label_text(set, sample)), csv_field(sample.path));
    }
  return text;
}

}  // namespace engine
