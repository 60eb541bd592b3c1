// The learning rate from epoch to epoch.
#pragma once

#include <limits>

namespace engine {

struct ScheduleConfig {
  enum class Kind { constant, plateau } kind = Kind::plateau;
  double learning_rate = 1e-3;
  // torch.optim.lr_scheduler.ReduceLROnPlateau, mode min, threshold 1e-4 relative, no cooldown.
  double factor = 0.1, threshold = 1e-4, least_change = 1e-8;
  int patience = 2;  // epochs without improvement that are tolerated
};

// What a checkpoint keeps of it.
struct ScheduleState {
  double learning_rate = 0;
  double best = std::numeric_limits<double>::infinity();
  int bad_epochs = 0;
};

class Schedule {
 public:
  explicit Schedule(const ScheduleConfig& config) : config_(config), state_{config.learning_rate} {}
  Schedule(const ScheduleConfig& config, const ScheduleState& state)
      : config_(config), state_(state) {}

  double learning_rate() const { return state_.learning_rate; }
  // After each epoch; true if the rate was reduced.
  bool epoch_done(double validation_loss);
  const ScheduleState& state() const { return state_; }

 private:
  ScheduleConfig config_;
  ScheduleState state_;
};

}  // namespace engine
