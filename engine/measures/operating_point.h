// What a threshold on the score of one class makes of the samples, and which threshold to take. A
// sample is called positive where its score is at least the threshold.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/measures/ranking.h"

namespace engine {

struct OperatingPoint {
  double threshold = 0;  // infinity: nothing is called positive
  double sensitivity = 0, specificity = 0;
};

// Of all thresholds with a specificity of at least `specificity` the one of the largest
// sensitivity, and the reverse; of equal ones that of the largest other figure, then the largest
// threshold. Nothing where all or none are positive.
std::optional<OperatingPoint> sensitivity_at_specificity(std::span<const RankedStep> steps,
                                                         double specificity);
std::optional<OperatingPoint> specificity_at_sensitivity(std::span<const RankedStep> steps,
                                                         double sensitivity);

// How a decision threshold is chosen.
struct ThresholdRule {
  enum class Kind : uint8_t {
    youden,       // the largest J = sensitivity + specificity − 1 (Youden 1950)
    sensitivity,  // specificity_at_sensitivity(at)
    specificity   // sensitivity_at_specificity(at)
  } kind = Kind::youden;
  double at = 0;  // above 0 and below 1
};

// Among the scores, so that the threshold is finite; of equal J the larger threshold. Nothing where
// all or none are positive, or where no score that finds a positive fulfils the rule.
std::optional<OperatingPoint> choose_threshold(std::span<const RankedStep> steps,
                                               const ThresholdRule& rule);

// What becomes of the samples at a threshold. A share without samples is nothing.
struct Called {
  int64_t true_positives = 0, false_positives = 0, true_negatives = 0, false_negatives = 0;

  std::optional<double> sensitivity() const;
  std::optional<double> specificity() const;
  std::optional<double> precision() const;                  // positive predictive value
  std::optional<double> negative_predictive_value() const;  // of those not called positive
};
Called call_at(std::span<const double> scores, std::span<const uint8_t> positive, double threshold);

// The measure of --watch sensitivity@S: of two classes the sensitivity for the second, by its
// probability; of more the mean over the classes that have and lack samples. Nothing where there is
// no such class. `probabilities` (samples, classes).
std::optional<double> mean_sensitivity_at(std::span<const double> probabilities,
                                          std::span<const int32_t> labels, int classes,
                                          double specificity);

}  // namespace engine
