// The distinct shapes of a model's steps: measured and checked once, however often they occur.
#pragma once

#include <string>
#include <vector>

#include "engine/graph.h"

namespace engine {

std::string kind_of(const Step& step);  // "depthwise", "pointwise", "conv", "squeeze_excite", …

// Without the batch: kernel, stride, padding, input H W C/pitch, output channels/pitch.
std::string shape_key(const Graph& graph, const Step& step);

struct StepShape {
  std::string key;
  int first = 0;  // index of the first step of that shape
  int count = 0;
};
std::vector<StepShape> distinct_shapes(const Graph& graph);  // in the order of first use

}  // namespace engine
