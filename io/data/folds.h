// Cross-validation: which fold of K each image is in. The run of a fold validates with its images
// and trains with those of the others, so that over the K runs every image validates once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/data/dataset.h"
#include "io/data/split.h"

namespace engine {

// The fold of each image, from 1 to `folds`, drawn with `seed`. `units` has a number for each
// image, from 0 without gaps: images of one number stay together (inseparable()).
//
// Every class is spread evenly over the folds. Units of several images are dealt out first, the
// largest first, each to the fold where the squares of the deviations from equal shares, of every
// class and of all images, grow least; then single units move as long as that sum falls. Images
// that are alone in their unit fill what is left: without other units the counts of a class differ
// by at most 1 between folds, and so do those of all images. Error(data) names a class that has
// fewer units than there are folds. Where images have several labels, label_folds() deals them out.
std::vector<int> sample_folds(const Dataset& all, int folds, uint64_t seed,
                              std::span<const uint32_t> units = {});

// The parts of the run of a fold: validation for its images, training for those of other folds,
// test for those of none, whose Sample::fold is 0.
std::vector<Part> parts_of_fold(const Dataset& all, int fold);

}  // namespace engine
