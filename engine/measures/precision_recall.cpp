#include "engine/measures/precision_recall.h"

#include <limits>

namespace engine {
namespace {

double precision_of(const RankedStep& step) {
  return static_cast<double>(step.positives) / static_cast<double>(step.positives + step.negatives);
}

bool without_positives(std::span<const RankedStep> steps) {
  return steps.empty() || steps.back().positives == 0;
}

}  // namespace

std::optional<double> average_precision(std::span<const RankedStep> steps) {
  if (without_positives(steps)) return std::nullopt;
  double sum = 0;
  int64_t before = 0;
  for (const RankedStep& step : steps) {
    sum += static_cast<double>(step.positives - before) * precision_of(step);
    before = step.positives;
  }
  return sum / static_cast<double>(before);
}

std::vector<PrecisionRecall> precision_recall_curve(std::span<const RankedStep> steps,
                                                    size_t most) {
  if (without_positives(steps)) return {};
  const auto positives = static_cast<double>(steps.back().positives);
  std::vector<PrecisionRecall> points = {{std::numeric_limits<double>::infinity()}};
  for (const RankedStep& step : steps)
    points.push_back(
        {step.threshold, precision_of(step), static_cast<double>(step.positives) / positives});
  if (points.size() <= most) return points;
  std::vector<PrecisionRecall> kept;
  const double stride = 1. / static_cast<double>(most - 2);
  for (const PrecisionRecall& point : points)
    if (point.recall >= stride * static_cast<double>(kept.size())) kept.push_back(point);
  if (kept.back().threshold != points.back().threshold) kept.push_back(points.back());
  return kept;
}

}  // namespace engine
