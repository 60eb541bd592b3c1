#include "engine/measures/operating_point.h"

#include <limits>
#include <utility>

namespace engine {
namespace {

// The rates are quotients of whole numbers, so that 9 of 10 fulfil "at least 0.9".
OperatingPoint point_of(const RankedStep& step, const RankedStep& all) {
  return {step.threshold, static_cast<double>(step.positives) / static_cast<double>(all.positives),
          static_cast<double>(all.negatives - step.negatives) / static_cast<double>(all.negatives)};
}

std::optional<double> share(int64_t part, int64_t whole) {
  if (whole == 0) return std::nullopt;
  return static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

std::optional<OperatingPoint> sensitivity_at_specificity(std::span<const RankedStep> steps,
                                                         double specificity) {
  if (one_sided(steps)) return std::nullopt;
  OperatingPoint best{std::numeric_limits<double>::infinity(), 0, 1};
  for (const RankedStep& step : steps) {  // specificity falls from step to step
    const OperatingPoint point = point_of(step, steps.back());
    if (point.specificity < specificity) break;
    if (point.sensitivity > best.sensitivity) best = point;
  }
  return best;
}

std::optional<OperatingPoint> specificity_at_sensitivity(std::span<const RankedStep> steps,
                                                         double sensitivity) {
  if (one_sided(steps)) return std::nullopt;
  std::optional<OperatingPoint> best;
  for (const RankedStep& step : steps) {  // sensitivity rises from step to step
    const OperatingPoint point = point_of(step, steps.back());
    if (point.sensitivity < sensitivity) continue;
    const bool better =
        !best || (point.specificity == best->specificity && point.sensitivity > best->sensitivity);
    if (!better) break;
    best = point;
  }
  return best;
}

std::optional<OperatingPoint> choose_threshold(std::span<const RankedStep> steps,
                                               const ThresholdRule& rule) {
  if (one_sided(steps)) return std::nullopt;
  if (rule.kind == ThresholdRule::Kind::sensitivity)
    return specificity_at_sensitivity(steps, rule.at);
  if (rule.kind == ThresholdRule::Kind::specificity) {
    const auto point = sensitivity_at_specificity(steps, rule.at);
    return point->sensitivity > 0 ? point : std::nullopt;
  }
  // J · positives · negatives, in whole numbers: equal ones are equal.
  const RankedStep& all = steps.back();
  const RankedStep* best = nullptr;
  int64_t most = 0;
  for (const RankedStep& step : steps) {
    const int64_t j = step.positives * all.negatives - step.negatives * all.positives;
    if (best && j <= most) continue;
    best = &step;
    most = j;
  }
  return point_of(*best, all);
}

std::optional<double> Called::sensitivity() const {
  return share(true_positives, true_positives + false_negatives);
}

std::optional<double> Called::specificity() const {
  return share(true_negatives, true_negatives + false_positives);
}

std::optional<double> Called::precision() const {
  return share(true_positives, true_positives + false_positives);
}

std::optional<double> Called::negative_predictive_value() const {
  return share(true_negatives, true_negatives + false_negatives);
}

Called call_at(std::span<const double> scores, std::span<const uint8_t> positive,
               double threshold) {
  Called called;
  for (size_t i = 0; i < scores.size(); ++i) {
    const bool yes = scores[i] >= threshold;
    if (positive[i])
      ++(yes ? called.true_positives : called.false_negatives);
    else
      ++(yes ? called.false_positives : called.true_negatives);
  }
  return called;
}

std::optional<double> mean_sensitivity_at(std::span<const double> probabilities,
                                          std::span<const int32_t> labels, int classes,
                                          double specificity) {
  std::vector<double> scores(labels.size());
  std::vector<uint8_t> positive(labels.size());
  double sum = 0;
  int counted = 0;
  for (int c = classes == 2 ? 1 : 0; c < classes; ++c) {
    for (size_t i = 0; i < labels.size(); ++i) {
      scores[i] = probabilities[i * classes + c];
      positive[i] = labels[i] == c;
    }
    const auto point = sensitivity_at_specificity(rank_scores(scores, positive), specificity);
    if (point) sum += point->sensitivity, ++counted;
  }
  if (counted == 0) return std::nullopt;
  return sum / counted;
}

}  // namespace engine
