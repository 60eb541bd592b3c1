// One training step against what PyTorch recorded (tools/compare/golden.py, whose head defines the
// file): logits, loss, every gradient and running statistic, layer by layer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/session.h"
#include "engine/tensor.h"

namespace engine {

struct Distance {
  double relative =
      0;  // l2 of the difference over the reference's l2, floored at 1e-5 of all gradients'
  double cosine = 0;  // 1 − cosine; of whole tensors only
};

// The parameter, running statistic or input of that name by the rule of tools/compare/golden.py;
// `input` is (N, C, H, W).
Tensor rule_tensor(const std::string& name, const Shape& shape, uint64_t seed);

struct ParityRow {
  std::string name;
  Distance ours;
  std::optional<Distance> own;  // PyTorch's, at the same precision, from the same reference
};

struct ParityReport {
  std::string model, precision, reference_precision;
  int batch = 0;
  double reference_loss = 0, loss = 0;
  double loss_of_logits = 0;  // in double, of the logits that the step made
  bool kinks = false;         // the model has ReLU or ReLU6, whose slope jumps
  ParityRow logits;
  std::vector<ParityRow> gradients;  // in backward order
  std::vector<ParityRow> running;    // in forward order
};

struct ParityOptions {
  Precision precision = Precision::fp32;
  ConvForm conv = ConvForm::automatic;
  bool deterministic = false;
  Communicator communicator;  // the backend's: its ranks share the batch, and its statistics
};

// Runs the reference's step on `backend`. Every rank gets the report of the whole batch.
ParityReport run_parity(const TensorFile& reference, Backend& backend,
                        const ParityOptions& options);

// What the report must keep; the defaults follow from the precision.
struct ParityLimits {
  double logits = 0, loss = 0, gradients = 0, running = 0;
  double loss_of_logits = 0;  // relative, as the loss
  // A tensor may also be this much further away than PyTorch's own. Before kinks rounding decides
  // signs, and which tensors they move is chance (tools/compare/README.md): there the factor is for
  // the median, the 90th percentile and the worst of all gradients.
  double own_factor = 2;
  double cosine_factor =
      0;  // 16-bit: median and 90th percentile of 1 − cosine against PyTorch's own; 0: not asked
};
ParityLimits parity_limits(Precision precision);

// Of unsorted values, the nearest of them; p in [0, 1].
double percentile(std::vector<double> values, double p);

// The first layer beyond its limit, forward statistics first, with both numbers; empty: all within.
std::string first_difference(const ParityReport& report, const ParityLimits& limits);

}  // namespace engine
