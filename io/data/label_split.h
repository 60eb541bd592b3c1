// A stratified split of images with several labels, into parts or into folds.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/data/split.h"

namespace engine {

// Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1): as long as images
// with labels are left, those of the rarest label among them are dealt out, each to the part that
// lacks most images of that label; of several parts to the one that lacks most images; of these to
// one at random. Images without a label fill up the parts. Missing labels count as absent. Images
// of one unit (as of sample_split) stay together; of those with the rarest label the largest units
// come first.
std::vector<Part> label_split(const Dataset& all, const Shares& shares, uint64_t seed,
                              std::span<const uint32_t> units = {});

// The same where the parts are folds of equal shares, as sample_folds() gives them: the fold of
// each image, from 1 to `folds`. Error(data) names a label that has images of fewer than two units:
// one of the folds would have none to train with.
std::vector<int> label_folds(const Dataset& all, int folds, uint64_t seed,
                             std::span<const uint32_t> units = {});

}  // namespace engine
