#include "tools/bench/shapes.h"

#include <fmt/format.h>

#include <algorithm>

namespace engine {

std::string kind_of(const Step& step) {
  if (const auto* conv = std::get_if<Conv>(&step)) {
    switch (conv->kind) {
      case Conv::Kind::dense: return "conv";
      case Conv::Kind::depthwise: return "depthwise";
      case Conv::Kind::pointwise: return "pointwise";
      case Conv::Kind::linear: return "linear";
    }
  }
  if (std::holds_alternative<SqueezeExcite>(step)) return "squeeze_excite";
  if (const auto* pool = std::get_if<Pool>(&step))
    return pool->maximal ? "max_pool" : "average_pool";
  return std::holds_alternative<Add>(step) ? "add" : "loss";
}

std::string shape_key(const Graph& g, const Step& step) {
  const Operand in = operands_of(step)[0];
  const Buffer& from = g.buffers[in.at.buffer];
  Window w{};
  if (const auto* conv = std::get_if<Conv>(&step)) w = conv->window;
  if (const auto* pool = std::get_if<Pool>(&step)) w = pool->window;
  const Slice* out = output_of(step);
  return fmt::format("{} k{}x{} s{} p{} h{} w{} c{}/{} o{}/{}", kind_of(step), w.kernel_h,
                     w.kernel_w, w.stride, w.padding, from.height, from.width, in.at.channels(),
                     from.channels, out ? out->channels() : 0,
                     out ? g.buffers[out->buffer].channels : 0);
}

std::vector<StepShape> distinct_shapes(const Graph& graph) {
  std::vector<StepShape> shapes;
  for (int i = 0; i < static_cast<int>(graph.steps.size()); ++i) {
    const std::string key = shape_key(graph, graph.steps[i]);
    const auto known = std::find_if(shapes.begin(), shapes.end(),
                                    [&](const StepShape& s) { return s.key == key; });
    if (known == shapes.end())
      shapes.push_back({key, i, 1});
    else
      ++known->count;
  }
  return shapes;
}

}  // namespace engine
