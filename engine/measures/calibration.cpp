#include "engine/measures/calibration.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/measures/ranking.h"

namespace engine {
namespace {

// The first two derivatives by β = 1/T of the mean of log Σ exp(β z) − β z(label), which is convex.
struct Slopes {
  double first = 0, second = 0;
};

Slopes slopes_at(double beta, std::span<const float> logits, std::span<const int32_t> labels,
                 int classes) {
  Slopes mean;
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto row = logits.subspan(i * classes, classes);
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0, first = 0, second = 0;
    for (const float z : row) {
      const double below = z - top, weight = std::exp(beta * below);
      sum += weight;
      first += weight * below;
      second += weight * below * below;
    }
    first /= sum;
    mean.first += first - (row[labels[i]] - top);
    mean.second += second / sum - first * first;
  }
  const auto samples = static_cast<double>(labels.size());
  return {mean.first / samples, mean.second / samples};
}

}  // namespace

int calibration_bin(double confidence) {
  return std::clamp(static_cast<int>(std::ceil(confidence * kCalibrationBins)) - 1, 0,
                    kCalibrationBins - 1);
}

Calibration calibrate(std::span<const double> confidences, std::span<const uint8_t> right) {
  Calibration c;
  const auto samples = static_cast<double>(confidences.size());
  for (size_t i = 0; i < confidences.size(); ++i) {
    CalibrationBin& bin = c.bins[calibration_bin(confidences[i])];
    ++bin.samples;
    bin.confidence += confidences[i];
    bin.accuracy += right[i];
  }
  for (CalibrationBin& bin : c.bins) {
    if (bin.samples == 0) continue;
    c.error += std::abs(bin.accuracy - bin.confidence) / samples;
    bin.confidence /= static_cast<double>(bin.samples);
    bin.accuracy /= static_cast<double>(bin.samples);
  }
  return c;
}

double brier_score(std::span<const double> probabilities, int label) {
  double sum = 0;
  for (size_t c = 0; c < probabilities.size(); ++c) {
    const double off = probabilities[c] - (static_cast<int>(c) == label ? 1 : 0);
    sum += off * off;
  }
  return sum;
}

// Newton's method on the slope, which rises with β, within bounds that every step narrows; where it
// leaves them they are halved, on the logarithmic scale.
std::optional<double> fit_temperature(std::span<const float> logits,
                                      std::span<const int32_t> labels, int classes) {
  constexpr double kMost = 1000;
  if (labels.empty()) return std::nullopt;
  double low = 1 / kMost, high = kMost, beta = 1;
  if (slopes_at(low, logits, labels, classes).first >= 0) return std::nullopt;
  if (slopes_at(high, logits, labels, classes).first <= 0) return std::nullopt;
  for (int i = 0; i < 200; ++i) {
    const Slopes slopes = slopes_at(beta, logits, labels, classes);
    (slopes.first > 0 ? high : low) = beta;
    double next = beta - slopes.first / slopes.second;
    if (!(next > low && next < high)) next = std::sqrt(low * high);
    const bool done = std::abs(next - beta) <= 1e-12 * beta;
    beta = next;
    if (done) break;
  }
  return 1 / beta;
}

std::vector<float> divided_by(std::span<const float> logits, double temperature) {
  std::vector<float> divided(logits.size());
  std::transform(logits.begin(), logits.end(), divided.begin(),
                 [&](float z) { return static_cast<float>(z / temperature); });
  return divided;
}

namespace {

// From all samples to the most confident ones.
std::vector<RejectPoint> whole_curve(std::span<const double> confidences,
                                     std::span<const uint8_t> right) {
  const auto samples = static_cast<double>(confidences.size());
  std::vector<RejectPoint> points;
  for (const RankedStep& step : rank_scores(confidences, right)) {
    const auto answered = static_cast<double>(step.positives + step.negatives);
    points.push_back(
        {step.threshold, answered / samples, static_cast<double>(step.positives) / answered});
  }
  std::reverse(points.begin(), points.end());
  return points;
}

}  // namespace

std::vector<RejectPoint> reject_curve(std::span<const double> confidences,
                                      std::span<const uint8_t> right, size_t most) {
  std::vector<RejectPoint> points = whole_curve(confidences, right);
  if (points.size() <= most) return points;
  std::vector<RejectPoint> kept;
  const double stride = 1. / static_cast<double>(most - 2);
  for (const RejectPoint& point : points)
    if (1 - point.coverage >= stride * static_cast<double>(kept.size())) kept.push_back(point);
  if (kept.back().threshold != points.back().threshold) kept.push_back(points.back());
  return kept;
}

std::optional<RejectPoint> choose_reject(std::span<const double> confidences,
                                         std::span<const uint8_t> right, double accuracy) {
  const std::vector<RejectPoint> points = whole_curve(confidences, right);
  const auto first = std::ranges::find_if(
      points, [&](const RejectPoint& point) { return point.accuracy >= accuracy; });
  if (first == points.end()) return std::nullopt;
  return *first;
}

RejectPoint answered_from(std::span<const double> thresholds, std::span<const double> confidences,
                          std::span<const uint8_t> right) {
  int64_t answered = 0, hits = 0;
  for (size_t i = 0; i < confidences.size(); ++i)
    if (confidences[i] >= thresholds[i]) {
      ++answered;
      hits += right[i];
    }
  const auto share = [](int64_t part, int64_t all) {
    return all > 0 ? static_cast<double>(part) / static_cast<double>(all) : 0;
  };
  const bool alike =
      std::ranges::adjacent_find(thresholds, std::not_equal_to()) == thresholds.end();
  const double threshold = alike && !thresholds.empty() ? thresholds[0] : NAN;
  return {threshold, share(answered, std::ssize(confidences)), share(hits, answered)};
}

}  // namespace engine
