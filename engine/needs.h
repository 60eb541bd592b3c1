// How much memory a step wants beside its operands and outputs. Pure functions of graph, batch and
// precision, so that `engine summary` knows them on any machine.
#pragma once

#include "engine/forms.h"
#include "engine/graph.h"

namespace engine {

struct StepNeeds {
  Scratch forward, backward;
  size_t kept = 0;  // bytes that a training forward leaves for the backward
};

// A convolution needs, part by part, the largest that any of its candidates wants. A batch of no
// images, which ranks have at the end of some epochs, needs nothing: none of its steps runs.
StepNeeds needs(const Graph& graph, const Step& step, const FormOptions& options);

// The Reals that a learned gate keeps between its squeeze-excite and the end of its buffer's
// backward: the vectors of a GateView, in its order.
int64_t gate_elements(const Gate& gate, int batch);

}  // namespace engine
