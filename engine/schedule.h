// The learning rate as a function of the steps attempted so far; a step that the loss scaler skips
// counts, too. The formulas are those of torch.optim.lr_scheduler; a warm-up is its LinearLR, put
// in front by SequentialLR.
#pragma once

#include <cstdint>
#include <limits>

namespace engine {

struct ScheduleConfig {
  enum class Kind {
    constant,
    cosine,       // CosineAnnealingLR over the run
    step,         // StepLR: × gamma every `every` units
    exponential,  // ExponentialLR: × gamma every unit
    one_cycle,    // OneCycleLR over the run, cosine annealing, the momentum left as it is
    plateau,      // ReduceLROnPlateau, mode min or max, relative threshold, no cooldown
  } kind = Kind::plateau;
  // What cosine, step and exponential count, and a warm-up given in epochs; one_cycle always counts
  // steps.
  enum class Unit { epoch, step } unit = Unit::epoch;
  double learning_rate = 1e-3;  // where it begins; the peak of one_cycle
  // The warm-up is linear, from warmup_factor × the first rate to that rate, over whichever of the
  // two is set. The schedule itself begins with the first whole unit after it, and ends with the
  // run.
  double warmup_epochs = 0;
  int64_t warmup_steps = 0;
  double warmup_factor = 1. / 3;
  double least = 0;                                      // cosine: where it ends
  double gamma = 0.1;                                    // step, exponential
  int every = 30;                                        // step
  double rise = 0.3, divisor = 25, final_divisor = 1e4;  // one_cycle: pct_start, div_factor, …
  double factor = 0.1, threshold = 1e-4, least_change = 1e-8;  // plateau
  int patience = 2;     // plateau: epochs without improvement that are tolerated
  bool rising = false;  // plateau: what is watched is the better the more it is (mode max)
};

// The state that a checkpoint keeps; the rest follows from the step.
struct ScheduleState {
  double factor = 1;  // plateau: the product of all reductions so far
  double best = std::numeric_limits<double>::infinity();  // infinite until there is one
  int bad_epochs = 0;
};

class Schedule {
 public:
  // Throws Error(usage) where a warm-up is as long as the run.
  Schedule(const ScheduleConfig& config, int64_t steps_per_epoch, int epochs,
           const ScheduleState& state = {});

  // The rate of a step, `attempted` steps after the run began.
  double rate(int64_t attempted) const;
  // Called after each epoch with what plateau watches, which is no improvement where it is NaN;
  // true if the rate was reduced.
  bool epoch_done(double watched);
  const ScheduleState& state() const { return state_; }

 private:
  double after_warmup(int64_t units) const;

  ScheduleConfig config_;
  int64_t steps_per_unit_;
  int64_t warmup_ = 0;  // steps
  int64_t delay_ = 0;   // units before the schedule itself begins
  int64_t length_ = 0;  // units of the schedule itself
  ScheduleState state_;
};

}  // namespace engine
