#include "engine/measures/roc.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/error.h"

namespace engine {
namespace {

// From the largest score on: how many positives and negatives have a score at least as large.
struct Cumulated {
  double threshold = 0;
  int64_t positives = 0, negatives = 0;
};

std::vector<Cumulated> cumulate(std::span<const double> scores, std::span<const uint8_t> positive) {
  std::vector<std::pair<double, uint8_t>> order(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    require(!std::isnan(scores[i]), Failure::diverged, "the score of sample {} is {}", i,
            scores[i]);
    order[i] = {scores[i], positive[i]};
  }
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Cumulated> steps;
  Cumulated now;
  for (size_t i = 0; i < order.size(); ++i) {
    now.threshold = order[i].first;
    ++(order[i].second ? now.positives : now.negatives);
    if (i + 1 == order.size() || order[i + 1].first != order[i].first) steps.push_back(now);
  }
  return steps;
}

bool one_sided(const std::vector<Cumulated>& steps) {
  return steps.empty() || steps.back().positives == 0 || steps.back().negatives == 0;
}

}  // namespace

std::optional<double> area_under_curve(std::span<const double> scores,
                                       std::span<const uint8_t> positive) {
  const std::vector<Cumulated> steps = cumulate(scores, positive);
  if (one_sided(steps)) return std::nullopt;
  double twice = 0;  // pairs in order count two, ties one
  Cumulated before;
  for (const Cumulated& now : steps) {
    twice += static_cast<double>(now.negatives - before.negatives) *
             static_cast<double>(now.positives + before.positives);
    before = now;
  }
  return twice / 2 / static_cast<double>(before.positives) / static_cast<double>(before.negatives);
}

std::vector<RocPoint> roc_curve(std::span<const double> scores, std::span<const uint8_t> positive,
                                size_t most) {
  const std::vector<Cumulated> steps = cumulate(scores, positive);
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

}  // namespace engine
