// The forms of a convolution: which ways there are to compute one direction of it, in the order of
// preference, with the scratch that each wants and what it costs. Decided here, once, from graph,
// batch and precision alone; no device is asked.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph.h"
#include "engine/launch.h"
#include "engine/precision.h"
#include "kernels/tiles.h"

namespace engine {

enum class BackendKind { reference, cpu, cuda };

// The family of forms that --conv asks for. A fused form transforms on load and reduces in its
// epilogue; a library form makes the operand dense where it must, calls a library, and takes the
// epilogue in a sweep. Where a convolution has no form of that family, the others serve.
enum class ConvForm { automatic, fused, library };

// As --conv spells it.
constexpr std::string_view name_of(ConvForm form) {
  switch (form) {
    case ConvForm::automatic: return "auto";
    case ConvForm::fused: return "fused";
    case ConvForm::library: return "library";
  }
  return "?";
}

enum class Direction : uint8_t { forward, backward };

std::string_view name_of(Direction direction);

enum class Form : uint8_t {
  banded_depthwise,     // our kernels on the matrix units, 16 bits
  fused_depthwise,      // our kernels (CUDA), a ring of rows (CPU)
  fused_pointwise,      // our products
  streamed_pointwise,   // our forward by the copy engine
  narrow_pointwise,     // both gradients by one of our kernels, without the output
  folded_pointwise,     // the operand's gradient by ours, the weight's by a library, without it
  joined_pointwise,     // both gradients by one of our kernels
  mixed_pointwise,      // the operand's gradient by ours, the weight's by a library
  fused_dense,          // our 3 × 3 convolutions, 16 bits
  fused_stem,           // our first convolution of an image, 16 bits
  matrix_product,       // for a pointwise or linear layer
  library_convolution,  // for dense tensors
  loops,                // the reference
};

// The scratch of one direction of one step, in bytes; 0: none.
struct Scratch {
  size_t operand = 0;   // f(x), dense; in backward its gradient df too, never both at once
  size_t output = 0;    // y, dense; in backward dy
  size_t weight = 0;    // dweight in the storage type, or its partial sums
  size_t partials = 0;  // per-tile sums: partial_rows() rows of 3·channels Reals
  size_t total() const { return operand + output + weight + partials; }
};

// Each part as large as the larger of the two.
Scratch larger(const Scratch& a, const Scratch& b);

struct FormOptions {
  int batch = 1;
  Precision precision = Precision::fp32;
  BackendKind backend = BackendKind::cpu;
  ConvForm conv = ConvForm::automatic;
  DeviceLimits limits;
  bool input_gradient = false;  // of the image, too
};

struct Candidate {
  Form form = Form::loops;
  // The name in summary, benchmarks and algorithms.json: "fused depthwise", "cuBLASLt", "cuDNN".
  std::string_view name;
  Scratch scratch;
  // The cost of the tensors: vectors of channels are left out; a gradient counts as written once.
  Cost cost;
};

// At least one candidate. Deterministic mode takes the first; timing, where it may choose, chooses
// among all of them.
std::vector<Candidate> candidates(const Graph& graph, const Conv& conv, Direction direction,
                                  const FormOptions& options);

// "fused depthwise | cuDNN": the names of the candidates.
std::string names_of(const std::vector<Candidate>& candidates);

}  // namespace engine
