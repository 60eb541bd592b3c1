// Receiver operating characteristics of one class against the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace engine {

// Area under the curve: the share of (positive, negative) pairs in order, ties half. Needs one of each.
std::optional<double> area_under_curve(std::span<const double> scores,
                                       std::span<const uint8_t> positive);

struct RocPoint {
  double threshold = 0;  // scores at least as large count as positive; the first is infinity
  double false_positive_rate = 0, true_positive_rate = 0;
};

// From (0, 0) to (1, 1), a point per distinct score without those in the middle of equal steps, as
// scikit-learn's roc_curve. More than `most` points are thinned evenly along the curve; the ends stay.
// Nothing where all or none are positive.
std::vector<RocPoint> roc_curve(std::span<const double> scores, std::span<const uint8_t> positive,
                                size_t most);

}  // namespace engine
