// --class-weights and --positive-weights: how much a class counts in the loss, and how much it
// counts that an image has a label.
#pragma once

#include <string>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

// The weights by class that `text` asks for. "none": an empty list. "auto": images / (classes ·
// images of the class), scikit-learn's "balanced". Else the name of a CSV file with the columns
// `class` and `weight` and a row for every class; Error(data) where it is malformed, Error(usage)
// where it is not there.
std::vector<double> class_weights(const std::string& text, const Dataset& train);

// The same of the labels of `train`, each of which weighs where an image has it: the pos_weight of
// torch.nn.BCEWithLogitsLoss. "auto": images without the label / images with it, of those that are
// known; Error(data) where there are none of either. A file has the columns `label` and `weight`.
std::vector<double> positive_weights(const std::string& text, const Dataset& train);

}  // namespace engine
