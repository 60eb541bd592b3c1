// How much memory a step wants beside its operands and outputs. Pure functions of graph, batch and
// precision, so that `engine summary` knows them on any machine.
#pragma once

#include "engine/graph.h"
#include "engine/precision.h"

namespace engine {

enum class BackendKind { reference, cpu, cuda };

// Fused kernels transform on load and reduce in the epilogue; library form materialises the
// operand, calls the library, and takes the epilogue in a sweep.
enum class ConvForm { automatic, fused, library };

ConvForm parse_conv_form(std::string_view name);  // throws Error(usage)
std::string_view name_of(ConvForm form);

// Bytes of scratch for one direction of one step; 0: none.
struct Scratch {
  size_t operand = 0;   // f(x), dense; in backward also its gradient df: never both at once
  size_t output = 0;    // y, dense; in backward dy
  size_t weight = 0;    // dweight in the storage type
  size_t partials = 0;  // per-tile sums: partial_rows() rows of 3·channels Reals
  size_t total() const { return operand + output + weight + partials; }
};

struct StepNeeds {
  Scratch forward, backward;
};

struct NeedsOptions {
  int batch = 1;
  Precision precision = Precision::fp32;
  BackendKind backend = BackendKind::cpu;
  ConvForm conv = ConvForm::automatic;
};

StepNeeds needs(const Graph& graph, const Step& step, const NeedsOptions& options);

// Vectors that a learned gate keeps between its squeeze-excite and the end of its buffer's
// backward, in Reals.
int64_t gate_elements(const Gate& gate, int batch);

}  // namespace engine
