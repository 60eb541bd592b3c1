#include "engine/graph.h"

#include <algorithm>
#include <cassert>

#include "engine/error.h"

namespace engine {

const std::string& name_of(const Step& step) {
  return std::visit([](const auto& s) -> const std::string& { return s.name; }, step);
}

std::vector<Operand> operands_of(const Step& step) {
  if (const auto* add = std::get_if<Add>(&step)) return {add->a, add->b};
  return std::visit(
      [](const auto& s) -> std::vector<Operand> {
        if constexpr (requires { s.in; })
          return {s.in};
        else
          return {};
      },
      step);
}

const Slice* output_of(const Step& step) {
  return std::visit(
      [](const auto& s) -> const Slice* {
        if constexpr (requires { s.out; })
          return &s.out;
        else
          return nullptr;
      },
      step);
}

bool gated(const Graph& graph, int buffer) {
  const auto learned = [&](const Operand& o) {
    return o.at.buffer == buffer && o.gate != kNone && graph.gates[o.gate].learned;
  };
  return std::ranges::any_of(graph.steps, [&](const Step& step) {
    return std::ranges::any_of(operands_of(step), learned);
  });
}

const Operand* scaled_operand(const Graph& graph, int buffer) {
  const Add* sum = nullptr;
  const Operand *found = nullptr, *other = nullptr;
  for (const Step& step : graph.steps) {
    const auto* add = std::get_if<Add>(&step);
    if (!add || (add->a.at.buffer != buffer && add->b.at.buffer != buffer)) continue;
    sum = add;
    found = add->a.at.buffer == buffer ? &add->a : &add->b;
    other = found == &add->a ? &add->b : &add->a;
  }
  const auto whole = [&](const Slice& s) {
    return s.channels() == graph.buffers[s.buffer].channels;
  };
  if (!sum || found->norm == kNone || found->act != Activation::none || found->gate != kNone ||
      other->at.buffer == buffer || !whole(found->at) || !whole(sum->out) ||
      graph.buffers[sum->out.buffer].normed || gated(graph, sum->out.buffer))
    return nullptr;
  // A plain operand's gradient may be the sum's memory, to which its other readers add: they and
  // its producer must come before the buffer's.
  const auto touches = [](const Step& step, const std::vector<Operand>& operands, int of) {
    const Slice* out = output_of(step);
    return (out && out->buffer == of) ||
           std::ranges::any_of(operands, [&](const Operand& o) { return o.at.buffer == of; });
  };
  bool produced = false, summed = false;
  for (const Step& step : graph.steps) {
    const std::vector<Operand> operands = operands_of(step);
    const auto* conv = std::get_if<Conv>(&step);
    const bool produces = conv && conv->out.buffer == buffer && whole(conv->out);
    summed = summed || std::get_if<Add>(&step) == sum;
    if (produces && conv->depthwise()) return nullptr;
    if (!produces && std::get_if<Add>(&step) != sum && touches(step, operands, buffer))
      return nullptr;
    produced = produced || produces;
    if (produced && !summed && other->plain() && touches(step, operands, other->at.buffer))
      return nullptr;
  }
  return produced ? found : nullptr;
}

// ---------------------------------------------------------------- values and places

Value Graph::value_of(Slice at) const {
  Value v;
  v.at = at;
  v.channels = at.channels();
  v.height = buffers[at.buffer].height;
  v.width = buffers[at.buffer].width;
  return v;
}

int Graph::buffer(std::string name, int channels) {
  buffers.push_back({.name = std::move(name), .channels = channels});
  return static_cast<int>(buffers.size()) - 1;
}

Slice Graph::place(int buffer, int channels, int height, int width) {
  Buffer& b = buffers[buffer];
  require(height > 0 && width > 0, Failure::usage,
          "{}: the image is too small: its output would be {}x{}", b.name, height, width);
  require(b.placed == 0 || (b.height == height && b.width == width), Failure::internal,
          "{}: a slice of {}x{} in a buffer of {}x{}", b.name, height, width, b.height, b.width);
  require(b.placed + channels <= b.channels, Failure::internal,
          "{}: {} + {} channels in a buffer of {}", b.name, b.placed, channels, b.channels);
  b.height = height;
  b.width = width;
  b.placed += channels;
  return {buffer, b.placed - channels, b.placed};
}

Value Graph::placed(int buffer) const {
  return value_of({buffer, 0, buffers[buffer].placed});
}

Value Graph::input(int height, int width, int channels) {
  image = place(buffer("image", channels), channels, height, width);
  return value_of(image);
}

int Graph::parameter(std::string name, Shape shape, Parameter::Kind kind, Shape memory) {
  parameters.push_back({std::move(name), std::move(shape), kind, std::move(memory)});
  return static_cast<int>(parameters.size()) - 1;
}

int64_t Graph::trained_parameters() const {
  int64_t count = 0;
  for (const Parameter& p : parameters)
    if (p.trained()) count += elements(p.shape);
  return count;
}

// ---------------------------------------------------------------- annotations

Value Graph::batch_norm(Value v, const std::string& name) {
  require(v.plain(), Failure::internal, "{}: a norm reads a raw slice", name);
  Buffer& b = buffers[v.at.buffer];
  require(!b.normed || b.eps == eps_, Failure::internal, "{}: norms of one buffer share eps", name);
  b.normed = true;
  b.eps = eps_;
  const Shape shape{v.channels};
  using Kind = Parameter::Kind;
  Norm norm{.name = name, .at = v.at, .eps = eps_, .momentum = momentum_};
  norm.gamma = parameter(name + ".weight", shape, Kind::gain, shape);
  norm.beta = parameter(name + ".bias", shape, Kind::offset, shape);
  norm.running_mean = parameter(name + ".running_mean", shape, Kind::running_mean, shape);
  norm.running_var = parameter(name + ".running_var", shape, Kind::running_var, shape);
  norms.push_back(std::move(norm));
  v.norm = static_cast<int>(norms.size()) - 1;
  return v;
}

Value Graph::activate(Value v, Activation act) {
  require(v.act == Activation::none && v.gate == kNone, Failure::internal,
          "{}: one activation, and before the gate", buffers[v.at.buffer].name);
  v.act = act;
  return v;
}

Value Graph::scale(Value v, int gate) {
  require(v.gate == kNone, Failure::internal, "{}: one gate per value", gates[gate].name);
  if (gates[gate].learned) {
    const auto squeezes = [&](const Step& step) {
      const auto* se = std::get_if<SqueezeExcite>(&step);
      return se && se->gate == gate && se->in == static_cast<const Operand&>(v);
    };
    require(std::any_of(steps.begin(), steps.end(), squeezes), Failure::internal,
            "{}: gates another value than it squeezed", gates[gate].name);
  }
  v.gate = gate;
  return v;
}

Value Graph::drop(Value v, const std::string& name, float p, bool whole_image) {
  if (p == 0) return v;
  gates.push_back({.name = name, .keep = 1 - p, .whole_image = whole_image});
  return scale(v, static_cast<int>(gates.size()) - 1);
}

Value Graph::dropout(Value v, const std::string& name, float p) {
  return drop(v, name, p, false);
}
Value Graph::stochastic_depth(Value v, const std::string& name, float p) {
  return drop(v, name, p, true);
}

// ---------------------------------------------------------------- steps

Value Graph::window(Value v, const std::string& name, int out, Window w, int into, Slice& slice) {
  const auto reach = [&](int size, int kernel) {
    return size + 2 * w.padding < kernel ? 0 : (size + 2 * w.padding - kernel) / w.stride + 1;
  };
  if (into == kNone) into = buffer(name, out);
  slice = place(into, out, reach(v.height, w.kernel_h), reach(v.width, w.kernel_w));
  return value_of(slice);
}

namespace {

Conv::Kind kind_of(const Window& w, const Value& v, bool depthwise) {
  if (depthwise) return Conv::Kind::depthwise;
  if (w == Window{}) return Conv::Kind::pointwise;
  const bool whole_image = w.padding == 0 && w.kernel_h == v.height && w.kernel_w == v.width;
  return whole_image ? Conv::Kind::linear : Conv::Kind::dense;
}

}  // namespace

Value Graph::conv(Value v, const std::string& name, const ConvOptions& o) {
  require(!o.depthwise || o.out == v.channels, Failure::internal,
          "{}: depthwise with {} inputs and {} outputs", name, v.channels, o.out);
  const int padding = o.padding == kNone ? o.kernel / 2 : o.padding,
            in = o.depthwise ? 1 : v.channels;
  Conv step{.name = name, .in = v, .window = {o.kernel, o.kernel, o.stride, padding}};
  step.kind = kind_of(step.window, v, o.depthwise);
  const Value y = window(v, name, o.out, step.window, o.into, step.out);
  step.weight = parameter(name + ".weight", {o.out, in, o.kernel, o.kernel},
                          Parameter::Kind::weight, {o.out, o.kernel, o.kernel, in});
  if (o.bias) step.bias = parameter(name + ".bias", {o.out}, Parameter::Kind::offset, {o.out});
  steps.push_back(std::move(step));
  return y;
}

Value Graph::linear(Value v, const std::string& name, int out) {
  Conv step{.name = name, .in = v, .window = {v.height, v.width, 1, 0}};
  step.kind = kind_of(step.window, v, false);
  const Value y = window(v, name, out, step.window, kNone, step.out);
  step.weight = parameter(name + ".weight", {out, int64_t{v.channels} * v.height * v.width},
                          Parameter::Kind::weight, {out, v.height, v.width, v.channels});
  step.bias = parameter(name + ".bias", {out}, Parameter::Kind::offset, {out});
  steps.push_back(std::move(step));
  return y;
}

Value Graph::pool(Value v, const std::string& name, Window w, bool maximal, int into) {
  Pool step{.name = name, .in = v, .window = w, .maximal = maximal};
  const Value y = window(v, name, v.channels, w, into, step.out);
  steps.push_back(std::move(step));
  return y;
}

Value Graph::max_pool(Value v, const std::string& name, int kernel, int stride, int padding,
                      int into) {
  return pool(v, name, {kernel, kernel, stride, padding}, true, into);
}

Value Graph::average_pool(Value v, const std::string& name, int kernel) {
  return pool(v, name, {kernel, kernel, kernel, 0}, false, kNone);
}

Value Graph::global_pool(Value v, const std::string& name) {
  return pool(v, name, {v.height, v.width, 1, 0}, false, kNone);
}

Value Graph::add(Value a, Value b, const std::string& name, Activation act) {
  require(a.channels == b.channels && a.height == b.height && a.width == b.width, Failure::internal,
          "{}: adds {}x{}x{} and {}x{}x{}", name, a.height, a.width, a.channels, b.height, b.width,
          b.channels);
  require(act != Activation::silu, Failure::internal,
          "{}: the slope of a stored silu cannot be told", name);
  Add step{.name = name, .a = a, .b = b, .act = act};
  step.out = place(buffer(name, a.channels), a.channels, a.height, a.width);
  const Value y = value_of(step.out);
  steps.push_back(std::move(step));
  return y;
}

int Graph::squeeze_excite(Value v, const std::string& name, int squeezed) {
  const int c = v.channels, gate = static_cast<int>(gates.size());
  using Kind = Parameter::Kind;
  gates.push_back({.name = name, .learned = true, .channels = c, .squeezed = squeezed});
  SqueezeExcite step{.name = name, .in = v, .gate = gate};
  step.reduce_weight =
      parameter(name + ".fc1.weight", {squeezed, c, 1, 1}, Kind::weight, {squeezed, 1, 1, c});
  step.reduce_bias = parameter(name + ".fc1.bias", {squeezed}, Kind::offset, {squeezed});
  step.expand_weight =
      parameter(name + ".fc2.weight", {c, squeezed, 1, 1}, Kind::weight, {c, 1, 1, squeezed});
  step.expand_bias = parameter(name + ".fc2.bias", {c}, Kind::offset, {c});
  steps.push_back(std::move(step));
  return gate;
}

void Graph::cross_entropy(Value v) {
  require(v.plain() && v.height == 1 && v.width == 1, Failure::internal,
          "{}: logits are plain and 1x1", buffers[v.at.buffer].name);
  logits = v.at;
  const auto& head = std::get<Conv>(steps.back());
  assert(head.out == v.at);
  parameters[head.weight].head = true;
  if (head.bias != kNone) parameters[head.bias].head = true;
  steps.push_back(Loss{.name = "loss", .in = v});
}

}  // namespace engine
