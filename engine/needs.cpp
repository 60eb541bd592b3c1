#include "engine/needs.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"
#include "kernels/tiles.h"

namespace engine {

namespace {

constexpr std::pair<ConvForm, std::string_view> kForms[] = {
    {ConvForm::automatic, "auto"}, {ConvForm::fused, "fused"}, {ConvForm::library, "library"}};

// What the sizes of one graph and batch have in common.
struct Sizes {
  const Graph& graph;
  const NeedsOptions& options;

  int64_t pixels(const Slice& s) const {
    const Buffer& b = graph.buffers[s.buffer];
    return int64_t{options.batch} * b.height * b.width;
  }
  size_t dense(const Slice& s) const {
    return pixels(s) * s.channels() * storage_size(options.precision);
  }
  size_t partials(const Slice& s) const {
    return size_t(partial_rows(pixels(s), s.channels())) * kPartialsPerChannel * s.channels() *
           real_size(options.precision);
  }
  bool whole(const Slice& s) const { return s.channels() == graph.buffers[s.buffer].channels; }
  // Its gradient must be made dense before a library reads it.
  bool gradient_in_parts(const Slice& s) const {
    const auto learned = [&](const Operand& o) {
      return o.at.buffer == s.buffer && o.gate != kNone && graph.gates[o.gate].learned;
    };
    bool gated = false;
    for (const Step& step : graph.steps)
      for (const Operand& o : operands_of(step)) gated = gated || learned(o);
    return graph.buffers[s.buffer].normed || gated || !whole(s);
  }
};

StepNeeds needs_of(const Sizes& sizes, const Conv& conv) {
  StepNeeds n;
  const NeedsOptions& o = sizes.options;
  const size_t operand = conv.in.plain() && sizes.whole(conv.in.at) ? 0 : sizes.dense(conv.in.at);
  const size_t partials = std::max(sizes.partials(conv.in.at), sizes.partials(conv.out));
  n.forward.partials = n.backward.partials = partials;
  const Shape& weight = sizes.graph.parameters[conv.weight].memory;
  if (conv.depthwise) {
    const Buffer& b = sizes.graph.buffers[conv.in.at.buffer];
    n.backward.weight =
        depthwise_weight_partials(o.batch, b.height, b.width, conv.in.at.channels(), conv.window,
                                  DeviceLimits{}) *
        sizeof(float);
    if (o.conv == ConvForm::fused) return n;
  }
  n.forward.operand = operand;
  if (!sizes.whole(conv.out)) n.forward.output = sizes.dense(conv.out);
  // df takes a place of its own unless a plain operand lets the library write the gradient itself;
  // a library that cannot accumulate needs one all the same.
  n.backward.operand = sizes.dense(conv.in.at);
  if (sizes.gradient_in_parts(conv.out)) n.backward.output = sizes.dense(conv.out);
  n.backward.weight =
      std::max<size_t>(n.backward.weight, elements(weight) * storage_size(o.precision));
  return n;
}

StepNeeds needs_of(const Sizes& sizes, const SqueezeExcite& squeeze) {
  const size_t partials = sizes.partials(squeeze.in.at);
  return {.forward = {.partials = partials}, .backward = {.partials = partials}};
}

StepNeeds needs_of(const Sizes& sizes, const Pool& pool) {
  const size_t partials = std::max(sizes.partials(pool.in.at), sizes.partials(pool.out));
  StepNeeds n{.forward = {.partials = partials}, .backward = {.partials = partials}};
  return n;
}

StepNeeds needs_of(const Sizes& sizes, const Add& add) {
  const size_t partials = sizes.partials(add.out);
  StepNeeds n{.forward = {.partials = partials}, .backward = {.partials = partials}};
  if (sizes.gradient_in_parts(add.out)) n.backward.output = sizes.dense(add.out);
  return n;
}

StepNeeds needs_of(const Sizes&, const Loss&) {
  return {};
}

}  // namespace

ConvForm parse_conv_form(std::string_view name) {
  for (const auto& [form, known] : kForms)
    if (name == known) return form;
  fail(Failure::usage, "--conv {}: known are auto, fused, library", name);
}

std::string_view name_of(ConvForm form) {
  for (const auto& [known, name] : kForms)
    if (form == known) return name;
  return "?";
}

StepNeeds needs(const Graph& graph, const Step& step, const NeedsOptions& options) {
  // The reference's loops hold what they need; the CPU backend works in tiles of its own.
  if (options.backend != BackendKind::cuda) return {};
  const Sizes sizes{graph, options};
  return std::visit([&](const auto& s) { return needs_of(sizes, s); }, step);
}

int64_t gate_elements(const Gate& gate, int batch) {
  return gate.learned ? int64_t{batch} * (8 * gate.channels + 2 * gate.squeezed) : 0;
}

}  // namespace engine
