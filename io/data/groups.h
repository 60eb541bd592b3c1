// Images that belong together: those of one patient or one lesion, and copies with the same bytes.
// A split keeps them in one part; where a data set has its parts already, groups that several of
// them share are found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "io/data/duplicates.h"

namespace engine {

// Sets the group of every sample by a regular expression (ECMAScript's syntax, std::regex): it is
// searched in the file's name or, if the expression has a '/', in the path below `root`. The group
// is what the first parentheses match, without parentheses what all of it matches. A sample without
// a match has no group; their number is returned. Error(usage) names --group-pattern if the
// expression is malformed or nothing matches.
size_t set_groups(Dataset& data, const std::string& pattern, const std::filesystem::path& root);

// For each sample the number of its unit, from 0 without gaps: samples that share a group, or a
// copy, or are linked by a chain of these, have one number. `copies` are of this data set alone.
std::vector<uint32_t> inseparable(const Dataset& data, std::span<const Copies> copies);

// Images that stay together, and how many of them each stratum has.
struct Unit {
  std::vector<uint32_t> images;
  std::map<size_t, int64_t> counts;
};

// The units of several images, shuffled with `seed`, then the largest first. `units` and `strata`
// have a number for each image.
std::vector<Unit> sample_large_units(std::span<const uint32_t> units,
                                     std::span<const size_t> strata, uint64_t seed);

// Every group that has samples in more than one set, in the order of the sets.
std::vector<Copies> shared_groups(std::span<const Dataset* const> sets);

// CSV with the columns group, split, label and path.
std::string groups_csv(std::span<const Copies> groups, std::span<const Dataset* const> sets,
                       std::span<const std::string> names);

}  // namespace engine
