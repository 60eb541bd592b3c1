// Images that occur several times, with the same bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "engine/parallel.h"
#include "io/data/dataset.h"

namespace engine {

struct Copy {
  size_t set = 0, sample = 0;  // the position of the data set, and the position in it
};
using Copies = std::vector<Copy>;  // two or more of one image, in the order of the sets

// Every image that occurs more than once; with `across` only those in more than one set. Files of
// one size are compared by the XXH64 of their bytes, which an attached pack knows already. A file
// that cannot be read is no copy of anything.
std::vector<Copies> find_duplicates(std::span<const Dataset* const> sets, bool across,
                                    const ParallelOptions& parallel);

// By the place of the first of each.
void sort_by_first(std::vector<Copies>& all);

// CSV with the columns copy, split, label and path; rows with one number in the first column are
// one image.
std::string duplicates_csv(std::span<const Copies> duplicates, std::span<const Dataset* const> sets,
                           std::span<const std::string> names);

}  // namespace engine
