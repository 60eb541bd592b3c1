#include "tools/train/early_stop.h"

#include <cmath>
#include <utility>

namespace engine {

bool is_better(const Watch& watch, const EpochFigures& f, int size, const BestEpoch& best) {
  if (!std::isfinite(f.top1) || !std::isfinite(f.loss) || !std::isfinite(f.merit)) return false;
  if (best.size != size) return true;
  const bool by_loss = watch.figure == Watch::Figure::loss;
  return std::pair(f.merit, by_loss ? f.top1 : -f.loss) >
         std::pair(best.merit, by_loss ? best.top1 : -best.loss);
}

void count_epoch(const EarlyStopConfig& config, EarlyStopState& state, const EpochFigures& f,
                 int size) {
  const bool better = state.size != size || f.merit > state.best + config.min_delta;
  if (better && std::isfinite(f.merit))
    state = {.best = f.merit, .size = size};
  else
    ++state.bad_epochs;
}

bool should_stop(const EarlyStopConfig& config, const EarlyStopState& state) {
  return config.patience > 0 && state.bad_epochs >= config.patience;
}

}  // namespace engine
