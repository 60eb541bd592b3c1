#include "engine/loss.h"

namespace engine {

double target_weight(const LossConfig& loss, std::span<const int32_t> labels,
                     std::span<const Mix> mixes) {
  if (loss.class_weights.empty()) return static_cast<double>(labels.size());
  double sum = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    const double own = loss.class_weights[labels[i]];
    const Mix mix = mixes.empty() ? Mix{} : mixes[i];
    sum += mix.share * own;
    if (mix.share != 1) sum += (1 - double{mix.share}) * loss.class_weights[labels[mix.partner]];
  }
  return sum;
}

}  // namespace engine
