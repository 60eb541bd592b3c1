// What a training step minimises; the arithmetic is kernels/loss.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/image.h"
#include "kernels/targets.h"

namespace engine {

// Of classes torch.nn.CrossEntropyLoss(weight, label_smoothing), of labels
// torch.nn.BCEWithLogitsLoss(pos_weight) over those that are not missing, with targets
// (1 − smoothing)·q + smoothing/2. Evaluation is always plain.
struct LossConfig {
  double smoothing = 0;               // in [0, 1)
  std::vector<double> class_weights;  // (classes,); of labels those of their positives; empty: 1
  Task task = Task::classes;
};

// What the mean of the loss divides by: of classes the sum of the images' class weights, of mixed
// images by their shares, as in CrossEntropyLoss; of labels the number of entries (image, label)
// that are not missing, and in a mix not missing in either image. A step divides by that of its
// global batch: StepInput::divisor is the sum over ranks and accumulated batches, and where that is
// 0 there is neither loss nor gradient.
double target_weight(const LossConfig& loss, const Targets& targets, int count, int classes,
                     std::span<const Mix> mixes = {});
double target_weight(const LossConfig& loss, std::span<const int32_t> labels,
                     std::span<const Mix> mixes = {});

}  // namespace engine
