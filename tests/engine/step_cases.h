// The step table: every kind of step in every form, as graphs of a few layers, and what one
// training step of such a graph leaves. Backends are compared on it, with the reference in double.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/graph.h"
#include "engine/session.h"

namespace engine::test {

struct StepSize {
  int channels = 3, batch = 2, height = 5, width = 6;
};

// One row. `build` gets the raw output of a convolution with `channels` channels and returns what a
// global pool and a linear layer then turn into logits.
struct StepCase {
  std::string name;
  std::function<Value(Graph&, Value)> build;
  bool even_sizes = false;  // two ways of halving meet
  bool kinks = false;       // a ReLU or a maximum: rounding may turn a slope over
  // Of that convolution. One of stride 2 is as models begin: nobody asks for the image's gradient.
  ConvOptions first = {.kernel = 3};

  bool input_gradient() const { return first.stride == 1; }
};

const std::vector<StepCase>& step_cases();
// Channel counts that are multiples of nothing, of 4 and of 8; batch 1; odd sizes.
const std::vector<StepSize>& step_sizes();

constexpr int kStepClasses = 5;
Graph make_graph(const StepCase& row, const StepSize& size);

// Values that are exact in every storage type, so that only arithmetic differs: k/64, |k| ≤ 128.
// Gains and variances in [0.5, 1.5], weights within ±√(6 / fan_in), the rest within ±0.5.
std::map<std::string, Tensor> random_state(const Graph& graph, uint64_t seed);
std::vector<uint8_t> random_bytes(size_t count, uint64_t seed);
std::vector<int32_t> random_labels(int count, int classes, uint64_t seed);
std::vector<Presence> random_presence(int count, int labels, uint64_t seed);  // a third is missing

// What a step left, by name: "logits", "evaluation", "input" (its gradient, if asked for),
// "gradient X", "state X" (running statistics after the step).
struct StepOutcome {
  double loss = 0;
  std::map<std::string, std::vector<double>> values;
};

// One step on random data (forward, backward, running statistics), then one evaluation. `options`
// says precision, form and determinism; the gradients come back unscaled.
StepOutcome run_step(const Graph& graph, int batch, Backend& backend, SessionOptions options,
                     bool input_gradient = true);
// The same on the reference backend in double.
StepOutcome run_reference(const Graph& graph, int batch, bool frozen_norms = false,
                          bool input_gradient = true);

// The worst relative L2 over all tensors, and whose it is. Gradients are measured against at least
// `floor` of the norm of all gradients: what is zero in exact arithmetic (a bias in front of a
// norm) holds only rounding.
struct Worst {
  double error = 0;
  std::string name;
};
Worst compare(const StepOutcome& ours, const StepOutcome& reference, double floor);

struct Limits {
  double error = 0;  // relative L2 of a tensor, at every size
  // Of rows with kinks the median over the sizes: with little precision a value near a kink lands
  // on its other side, which misplaces a whole gradient; few elements then show an error of order
  // one. 0: as `error`.
  double kinks = 0;
  double floor = 0.1;
};
// CHECKs every row at every size on `backend` against the reference in double.
void check_steps(Backend& backend, const SessionOptions& options, const Limits& limits);
// The same for one small network with weights and smoothing, of classes and of labels, whose
// batches are mixed, records of a pack, both and neither, in turn.
void check_inputs(Backend& backend, const SessionOptions& options, const Limits& limits);

}  // namespace engine::test
