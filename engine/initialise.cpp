#include "engine/initialise.h"

#include <algorithm>
#include <cmath>

#include "engine/rng.h"

namespace engine {

namespace {

using Weight = Initialisation::Weight;

// Fans are counted as in PyTorch, from the shape alone, so a depthwise kernel's fan_out is
// channels · k².
int64_t fan_in(const Shape& shape) {
  return elements(shape) / shape[0];
}
int64_t fan_out(const Shape& shape) {
  return elements(shape) / shape[1];
}

// The weight that a bias belongs to comes right before it.
const Shape& weight_of_bias(const Graph& graph, int bias) {
  return graph.parameters[bias - 1].shape;
}

bool is_bias_of_a_weight(const Graph& graph, int parameter) {
  return parameter > 0 && graph.parameters[parameter].kind == Parameter::Kind::offset &&
         graph.parameters[parameter - 1].kind == Parameter::Kind::weight;
}

void fill_uniform(std::span<float> values, float bound, Rng rng) {
  for (float& v : values) v = rng.uniform(-bound, bound);
}

void fill_weight(std::span<float> values, const Shape& shape, Weight rule, Rng rng) {
  const auto normal_of = [&](float deviation) {
    for (float& v : values) v = rng.normal() * deviation;
  };
  const auto normal = [&](int64_t fan) { normal_of(std::sqrt(2.f / static_cast<float>(fan))); };
  switch (rule) {
    case Weight::normal_fan_out: return normal(fan_out(shape));
    case Weight::normal_fan_in: return normal(fan_in(shape));
    case Weight::normal_small: return normal_of(0.01f);
    case Weight::uniform_fan_in:
      return fill_uniform(values, 1.f / std::sqrt(float(fan_in(shape))), rng);
    case Weight::uniform_out: return fill_uniform(values, 1.f / std::sqrt(float(shape[0])), rng);
  }
}

// Whether the parameter starts as one of a torch.nn.Linear, whatever the rules of the others are.
bool starts_as_linear(const Graph& graph, int parameter) {
  return graph.parameters[parameter].head && !graph.initialisation.published_head;
}

// The rule of a weight.
Weight rule_of(const Graph& graph, int parameter) {
  if (starts_as_linear(graph, parameter)) return Weight::uniform_fan_in;
  return graph.parameters[parameter].shape.size() == 4 ? graph.initialisation.conv
                                                       : graph.initialisation.linear;
}

// Whether an offset starts at ±1/√fan_in of its layer; else it starts at 0.
bool is_drawn_bias(const Graph& graph, int parameter) {
  return is_bias_of_a_weight(graph, parameter) &&
         (starts_as_linear(graph, parameter) || !graph.initialisation.zero_bias);
}

}  // namespace

Tensor initial_value(const Graph& graph, int parameter, uint64_t seed) {
  const Parameter& p = graph.parameters[parameter];
  Tensor value(DType::f32, p.shape);
  const std::span<float> values = value.as<float>();
  const Rng rng({.seed = seed, .purpose = purpose(p.name.c_str())});
  switch (p.kind) {
    case Parameter::Kind::weight:
      fill_weight(values, p.shape, rule_of(graph, parameter), rng);
      break;
    case Parameter::Kind::gain:
    case Parameter::Kind::running_var: std::fill(values.begin(), values.end(), 1.f); break;
    case Parameter::Kind::running_mean: break;
    case Parameter::Kind::offset:
      if (is_drawn_bias(graph, parameter))
        fill_uniform(values, 1.f / std::sqrt(float(fan_in(weight_of_bias(graph, parameter)))), rng);
      break;
  }
  return value;
}

}  // namespace engine
