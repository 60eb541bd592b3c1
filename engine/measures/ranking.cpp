#include "engine/measures/ranking.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/error.h"

namespace engine {

std::vector<RankedStep> rank_scores(std::span<const double> scores,
                                    std::span<const uint8_t> positive) {
  std::vector<std::pair<double, uint8_t>> order(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    require(!std::isnan(scores[i]), Failure::diverged, "the score of sample {} is {}", i,
            scores[i]);
    order[i] = {scores[i], positive[i]};
  }
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<RankedStep> steps;
  RankedStep now;
  for (size_t i = 0; i < order.size(); ++i) {
    now.threshold = order[i].first;
    ++(order[i].second ? now.positives : now.negatives);
    if (i + 1 == order.size() || order[i + 1].first != order[i].first) steps.push_back(now);
  }
  return steps;
}

bool one_sided(std::span<const RankedStep> steps) {
  return steps.empty() || steps.back().positives == 0 || steps.back().negatives == 0;
}

}  // namespace engine
