#include "engine/loss.h"

#include "kernels/loss.h"

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

namespace {

double known_labels(const Presence* labels, int count, int classes, std::span<const Mix> mixes) {
  double known = 0;
  for (int n = 0; n < count; ++n) {
    const Mix mix = mixes.empty() ? Mix{} : mixes[n];
    const int other = mix.share == 1 ? n : mix.partner;
    for (int c = 0; c < classes; ++c)
      known += mixed_presence(labels[int64_t{n} * classes + c],
                              labels[int64_t{other} * classes + c], double{mix.share}, 0) >= 0;
  }
  return known;
}

}  // namespace

double target_weight(const LossConfig& loss, const Targets& targets, int count, int classes,
                     std::span<const Mix> mixes) {
  if (loss.task == Task::labels) return known_labels(targets.labels, count, classes, mixes);
  return target_weight(loss, std::span(targets.classes, size_t(count)), mixes);
}

}  // namespace engine
