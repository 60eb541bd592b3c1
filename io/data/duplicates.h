// Images that are there several times, by their bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "io/files/parallel.h"

namespace engine {

struct Copy {
  size_t set = 0, sample = 0;  // positions among the data sets, and in that one
};
using Copies = std::vector<Copy>;  // of one image, two or more, in the order of the sets

// Every image that occurs more than once; only those in more than one set if `across`. Files of one
// size are compared by the XXH64 of their bytes, which a pack that is attached knows already. Files
// that cannot be read are nobody's copies.
std::vector<Copies> find_duplicates(std::span<const Dataset* const> sets, bool across,
                                    const ParallelOptions& parallel);

// copy,split,label,path: rows of one number in the first column are one image.
std::string duplicates_csv(std::span<const Copies> duplicates, std::span<const Dataset* const> sets,
                           std::span<const std::string> names);

}  // namespace engine
