// What would make the scores of a run false, or impossible: images or groups that several of its
// parts share, copies of an image with several labels, parts of which nothing can be read.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/data/duplicates.h"
#include "tools/data/image_sets.h"

namespace engine {

struct NamedSet {
  std::string name;
  const Dataset* data = nullptr;
};
std::vector<NamedSet> parts_of(const TrainingData& data);

// Error(data) if a part has images and none of them can be read. Where there is no pack, which
// knows, images are read until one can be.
void require_readable(std::span<const NamedSet> parts);

struct Leaks {
  std::vector<Copies> images;     // the same bytes in several parts
  std::vector<Copies> conflicts;  // the same bytes with several labels
  std::vector<Copies> groups;     // one group in several parts

  size_t count() const { return images.size() + conflicts.size() + groups.size(); }
};

// `duplicates` are all copies within and across the parts.
Leaks find_leaks(std::span<const NamedSet> parts, std::span<const Copies> duplicates);

// One line for each kind of leak there is: how many, and the first.
std::vector<std::string> describe(const Leaks& leaks, std::span<const NamedSet> parts);

// Error(data) if there are leaks and --on-leak says error.
void check_leaks(const Leaks& leaks, const ImageSetOptions& options);

// Looks for leaks, says what there is, names all of it in duplicates.csv and shared_groups.csv in
// `folder` if that is not empty, and checks it. This is cheap once a pack is attached, which knows
// the hashes.
Leaks report_leaks(std::span<const NamedSet> parts, const ImageSetOptions& options,
                   const ParallelOptions& parallel, const std::filesystem::path& folder);

}  // namespace engine
