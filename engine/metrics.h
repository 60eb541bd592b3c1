// What an evaluation says: loss, top-1, top-5 and macro AUC, from the logits of every sample.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace engine {

struct Metrics {
  int64_t samples = 0;
  double loss = 0;            // mean cross entropy
  double top1 = 0, top5 = 0;  // shares, 0 to 1
  std::optional<double>
      auc_macro;  // one class against the rest, mean over the classes that occur; nothing if
                  // no class has both samples and others
};

// logits (samples, classes). Of equal logits the lower class counts as larger.
Metrics evaluate_logits(std::span<const float> logits, std::span<const int32_t> labels,
                        int classes);

// Area under the ROC curve: the share of (positive, negative) pairs in order, ties half. Needs one of each.
std::optional<double> area_under_curve(std::span<const double> scores,
                                       std::span<const uint8_t> positive);

// log Σ exp − z of one row, and the softmax of it into `probabilities` if that is not empty.
double cross_entropy(std::span<const float> logits, int label,
                     std::span<double> probabilities = {});

}  // namespace engine
