// Images of a data set for people to look at: what the network gets of them, with their classes.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "io/images/preprocess.h"
#include "tools/score/evaluation.h"

namespace engine {

struct Example {
  size_t sample = 0;
  std::string text;  // under the picture; may have several lines
};

// At most `count` samples, evenly spread over the data set, with their classes.
std::vector<Example> spread_examples(const Dataset& data, size_t count);

// The `count` counted samples with the largest cross entropy, the largest first, with class,
// prediction and its probability.
std::vector<Example> worst_examples(const EvaluationResult& result, const Dataset& data,
                                    size_t count);

// One sheet of them, cropped as in evaluation, at most 128 pixels a side. What cannot be read is
// left out; nothing where nothing can be. Error(data) where the program's font is missing.
std::optional<Image> example_sheet(const Dataset& data, std::span<const Example> examples,
                                   const Preprocess& preprocess);

}  // namespace engine
