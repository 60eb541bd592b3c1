#include "engine/measures/roc.h"

#include <limits>

namespace engine {
std::optional<double> area_under_curve(std::span<const RankedStep> steps) {
  if (one_sided(steps)) return std::nullopt;
  double twice = 0;  // pairs in order count two, ties one
  RankedStep before;
  for (const RankedStep& now : steps) {
    twice += static_cast<double>(now.negatives - before.negatives) *
             static_cast<double>(now.positives + before.positives);
    before = now;
  }
  return twice / 2 / static_cast<double>(before.positives) / static_cast<double>(before.negatives);
}

std::optional<double> area_under_curve(std::span<const double> scores,
                                       std::span<const uint8_t> positive) {
  return area_under_curve(rank_scores(scores, positive));
}

std::vector<RocPoint> roc_curve(std::span<const RankedStep> steps, size_t most) {
  if (one_sided(steps)) return {};
  std::vector<RocPoint> points = {{std::numeric_limits<double>::infinity(), 0, 0}};
  const auto p = static_cast<double>(steps.back().positives);
  const auto n = static_cast<double>(steps.back().negatives);
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool inside = i > 0 && i + 1 < steps.size();
    if (inside &&
        steps[i + 1].positives - steps[i].positives ==
            steps[i].positives - steps[i - 1].positives &&
        steps[i + 1].negatives - steps[i].negatives == steps[i].negatives - steps[i - 1].negatives)
      continue;
    points.push_back({steps[i].threshold, static_cast<double>(steps[i].negatives) / n,
                      static_cast<double>(steps[i].positives) / p});
  }
  if (points.size() <= most) return points;
  // The way along the curve, which rises in both coordinates, goes from 0 to 2.
  std::vector<RocPoint> kept;
  const double stride = 2. / static_cast<double>(most - 1);
  for (const RocPoint& point : points) {
    const double length = point.false_positive_rate + point.true_positive_rate;
    if (length >= stride * static_cast<double>(kept.size())) kept.push_back(point);
  }
  kept.back() = points.back();
  return kept;
}

std::vector<RocPoint> roc_curve(std::span<const double> scores, std::span<const uint8_t> positive,
                                size_t most) {
  return roc_curve(rank_scores(scores, positive), most);
}

}  // namespace engine
