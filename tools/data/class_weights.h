// --class-weights: how much a class counts in the loss.
#pragma once

#include <string>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

// none: empty; auto: images / (classes · images of the class), scikit-learn's "balanced"; else a CSV file
// with the columns `class` and `weight` and a row for every class.
std::vector<double> class_weights(const std::string& text, const Dataset& train);

}  // namespace engine
