#include "engine/measures/agreement.h"

#include <cstdlib>
#include <vector>

namespace engine {
namespace {

std::optional<double> kappa(double observed, double expected) {
  if (expected <= 0) return std::nullopt;
  return 1 - observed / expected;
}

}  // namespace

Kappas kappas(const Disagreement& of) {
  // Σ over (i, j) of w · labels(i) · predictions(j), each in one pass. |i − j| is the number of
  // cuts between two classes that separate i from j.
  double samples = 0, same = 0;
  for (size_t c = 0; c < of.labels.size(); ++c) {
    const auto l = static_cast<double>(of.labels[c]), p = static_cast<double>(of.predictions[c]);
    samples += l;
    same += l * p;
  }
  double linear = 0, labels_below = 0, predictions_below = 0;
  double label_mean = 0, prediction_mean = 0, label_square = 0, prediction_square = 0;
  for (size_t c = 0; c < of.labels.size(); ++c) {
    const auto l = static_cast<double>(of.labels[c]), p = static_cast<double>(of.predictions[c]);
    const auto at = static_cast<double>(c);
    labels_below += l;
    predictions_below += p;
    linear +=
        labels_below * (samples - predictions_below) + (samples - labels_below) * predictions_below;
    label_mean += at * l;
    prediction_mean += at * p;
    label_square += at * at * l;
    prediction_square += at * at * p;
  }
  const double quadratic =
      samples * (label_square + prediction_square) - 2 * label_mean * prediction_mean;
  return {kappa(static_cast<double>(of.plain) * samples, samples * samples - same),
          kappa(static_cast<double>(of.linear) * samples, linear),
          kappa(static_cast<double>(of.quadratic) * samples, quadratic)};
}

Kappas kappas(std::span<const int64_t> confusion, int classes) {
  std::vector<int64_t> labels(classes), predictions(classes);
  Disagreement sums;
  for (int i = 0; i < classes; ++i)
    for (int j = 0; j < classes; ++j) {
      const int64_t samples = confusion[size_t(i) * classes + j], apart = std::abs(i - j);
      labels[i] += samples;
      predictions[j] += samples;
      sums.plain += apart > 0 ? samples : 0;
      sums.linear += apart * samples;
      sums.quadratic += apart * apart * samples;
    }
  sums.labels = labels;
  sums.predictions = predictions;
  return kappas(sums);
}

}  // namespace engine
