// The first losses of a training against those that two implementations of PyTorch had
// (tools/compare/curve.py).
#pragma once

#include <vector>

#include "engine/backend.h"
#include "engine/tensor.h"
#include "tools/bench/parity.h"

namespace engine {

struct CurveRow {
  double ours = 0, first = 0, second = 0;  // losses of one step: ours and PyTorch's two
  // Relative to the first.
  double error() const;
  double spread() const;
};

// Repeats the reference's steps: Adam, dropout and stochastic depth off.
std::vector<CurveRow> run_curve(const TensorFile& reference, Backend& backend,
                                const ParityOptions& options);

// Step 1 within 1e-5; later ones within 3x the largest spread so far, since rounding grows from
// step to step. The first step beyond, from 1; 0: none.
int first_departure(const std::vector<CurveRow>& rows);

}  // namespace engine
