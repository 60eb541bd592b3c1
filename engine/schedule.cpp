#include "engine/schedule.h"

namespace engine {

bool Schedule::epoch_done(double loss) {
  if (config_.kind == ScheduleConfig::Kind::constant) return false;
  if (loss < state_.best * (1 - config_.threshold)) {
    state_.best = loss;
    state_.bad_epochs = 0;
    return false;
  }
  if (++state_.bad_epochs <= config_.patience) return false;
  state_.bad_epochs = 0;
  const double reduced = state_.learning_rate * config_.factor;
  if (state_.learning_rate - reduced <= config_.least_change) return false;
  state_.learning_rate = reduced;
  return true;
}

}  // namespace engine
