// The receiver operating characteristic of one class against the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/measures/ranking.h"

namespace engine {

// The area under the curve: the share of (positive, negative) pairs that are in order; a tie counts
// half. Nothing where all or none are positive.
std::optional<double> area_under_curve(std::span<const RankedStep> steps);
std::optional<double> area_under_curve(std::span<const double> scores,
                                       std::span<const uint8_t> positive);

struct RocPoint {
  double threshold = 0;  // scores at least as large count as positive; the first is infinity
  double false_positive_rate = 0, true_positive_rate = 0;
};

// The curve from (0, 0) to (1, 1), as scikit-learn's roc_curve: a point per distinct score, without
// those between equal steps. More than `most` points are thinned evenly along the curve; the ends
// stay. It is empty where all or none are positive.
std::vector<RocPoint> roc_curve(std::span<const RankedStep> steps, size_t most);
std::vector<RocPoint> roc_curve(std::span<const double> scores, std::span<const uint8_t> positive,
                                size_t most);

}  // namespace engine
