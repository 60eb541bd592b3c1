// Samples in the order of one score, from the largest on: what every curve of a class against the
// rest is made of.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engine {

// One distinct score: so many positives and negatives have a score at least as large.
struct RankedStep {
  double threshold = 0;
  int64_t positives = 0, negatives = 0;
};

// A step per distinct score; the last has all samples. Scores that are NaN have no order:
// Error(diverged) where there is one.
std::vector<RankedStep> rank_scores(std::span<const double> scores,
                                    std::span<const uint8_t> positive);

// Whether there are no positives or no negatives.
bool one_sided(std::span<const RankedStep> steps);

}  // namespace engine
