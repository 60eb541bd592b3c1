#include "tools/train/early_stop.h"

#include <cmath>
#include <utility>

namespace engine {

bool is_better(Watched watched, const Metrics& m, int size, const BestEpoch& best) {
  if (!std::isfinite(m.top1) || !std::isfinite(m.loss)) return false;
  if (best.size != size) return true;
  const std::pair ours(m.top1, -m.loss), theirs(best.top1, -best.loss);
  if (watched == Watched::top1) return ours > theirs;
  return std::pair(ours.second, ours.first) > std::pair(theirs.second, theirs.first);
}

void count_epoch(const EarlyStopConfig& config, EarlyStopState& state, const Metrics& m, int size) {
  const double value = config.watched == Watched::top1 ? m.top1 : -m.loss;
  const bool better = state.size != size || value > state.best + config.min_delta;
  if (better && std::isfinite(value))
    state = {.best = value, .size = size};
  else
    ++state.bad_epochs;
}

bool should_stop(const EarlyStopConfig& config, const EarlyStopState& state) {
  return config.patience > 0 && state.bad_epochs >= config.patience;
}

}  // namespace engine
