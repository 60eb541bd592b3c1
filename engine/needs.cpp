#include "engine/needs.h"

#include <algorithm>

#include "engine/step_sizes.h"

namespace engine {

namespace {

struct LayerNeeds {
  const Graph& graph;
  const FormOptions& options;
  StepSizes sizes;

  Scratch largest(const Conv& conv, Direction direction) const {
    Scratch scratch;
    for (const Candidate& c : candidates(graph, conv, direction, options))
      scratch = larger(scratch, c.scratch);
    return scratch;
  }
};

StepNeeds needs_of(const LayerNeeds& l, const Conv& conv) {
  return {l.largest(conv, Direction::forward), l.largest(conv, Direction::backward)};
}

StepNeeds needs_of(const LayerNeeds& l, const SqueezeExcite& squeeze) {
  const size_t partials = l.sizes.partials(squeeze.in.at);
  return {.forward = {.partials = partials}, .backward = {.partials = partials}};
}

// The winners of the maximum behind a stem are kept.
bool keeps_winners(const LayerNeeds& l, const Pool& pool) {
  return pool.maximal && pool.window == Window{3, 3, 2, 1} && pool.in.act == Activation::relu &&
         pool.in.gate == kNone && l.sizes.in_packs(pool.in.at) && l.sizes.in_packs(pool.out);
}

StepNeeds needs_of(const LayerNeeds& l, const Pool& pool) {
  const size_t partials = std::max(l.sizes.partials(pool.in.at), l.sizes.partials(pool.out));
  StepNeeds n{.forward = {.partials = partials}, .backward = {.partials = partials}};
  if (keeps_winners(l, pool)) {
    const int64_t elements = l.sizes.pixels(pool.out) * pool.out.channels();
    n.kept = storage_size(l.sizes.precision) == 2 ? KeptMaxima<uint16_t>::bytes(elements)
                                                  : KeptMaxima<float>::bytes(elements);
  }
  return n;
}

// The slopes of a sum behind ReLU are kept as bits where its operands are a norm at most, and a
// thread takes 16-bit values by whole packs, of each a byte.
bool keeps_slopes(const LayerNeeds& l, const Add& add) {
  const auto fits = [&](const Operand& o) {
    return o.act == Activation::none && o.gate == kNone && l.sizes.in_packs(o.at);
  };
  return add.act != Activation::none && storage_size(l.sizes.precision) == 2 &&
         l.sizes.in_packs(add.out) && fits(add.a) && fits(add.b);
}

StepNeeds needs_of(const LayerNeeds& l, const Add& add) {
  const size_t partials = l.sizes.partials(add.out);
  StepNeeds n{.forward = {.partials = partials}, .backward = {.partials = partials}};
  if (l.sizes.gradient_in_parts(add.out)) n.backward.output = l.sizes.dense(add.out);
  if (keeps_slopes(l, add)) n.kept = slope_bytes(l.sizes.pixels(add.out), add.out.channels());
  return n;
}

StepNeeds needs_of(const LayerNeeds&, const Loss&) {
  return {};
}

}  // namespace

StepNeeds needs(const Graph& graph, const Step& step, const FormOptions& options) {
  // The reference's loops hold what they need; the CPU backend works in tiles of its own.
  if (options.backend != BackendKind::cuda) return {};
  // Of a rank that has no images of a batch no step runs; it only meets the others.
  if (options.batch == 0) return {};
  const LayerNeeds layer{graph, options, {graph, options.batch, options.precision}};
  return std::visit([&](const auto& s) { return needs_of(layer, s); }, step);
}

int64_t gate_elements(const Gate& gate, int batch) {
  return gate.learned ? int64_t{batch} * (8 * gate.channels + 2 * gate.squeezed) : 0;
}

}  // namespace engine
