// What a training step minimises; the arithmetic is kernels/loss.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/image.h"

namespace engine {

// torch.nn.CrossEntropyLoss(weight, label_smoothing). Evaluation is always plain.
struct LossConfig {
  double smoothing = 0;               // in [0, 1)
  std::vector<double> class_weights;  // (classes,); empty: all 1
};

// What CrossEntropyLoss's mean divides by: the sum of the labels' class weights, of mixed labels by
// their shares. A step divides by that of its global batch: StepInput::divisor is the ranks' sum.
double target_weight(const LossConfig& loss, std::span<const int32_t> labels,
                     std::span<const Mix> mixes = {});

}  // namespace engine
