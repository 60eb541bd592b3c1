// --class-weights: how much a class counts in the loss.
#pragma once

#include <string>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

// The weights by class that `text` asks for. "none": an empty list. "auto": images / (classes ·
// images of the class), scikit-learn's "balanced". Else the name of a CSV file with the columns
// `class` and `weight` and a row for every class; Error(data) where it is malformed.
std::vector<double> class_weights(const std::string& text, const Dataset& train);

}  // namespace engine
