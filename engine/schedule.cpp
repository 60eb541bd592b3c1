#include "engine/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/error.h"

namespace engine {

namespace {

using Kind = ScheduleConfig::Kind;
using Unit = ScheduleConfig::Unit;

// Falls or rises from `begin` to `end` while `part` goes from 0 to 1.
double cosine(double begin, double end, double part) {
  return end + (begin - end) / 2 * (1 + std::cos(std::numbers::pi * part));
}

int64_t steps_per_unit(const ScheduleConfig& c, int64_t steps_per_epoch) {
  const bool by_step = c.unit == Unit::step || c.kind == Kind::one_cycle;
  return by_step && c.kind != Kind::plateau ? 1 : std::max<int64_t>(1, steps_per_epoch);
}

}  // namespace

Schedule::Schedule(const ScheduleConfig& config, int64_t steps_per_epoch, int epochs,
                   const ScheduleState& state)
    : config_(config), steps_per_unit_(steps_per_unit(config, steps_per_epoch)), state_(state) {
  const double asked = config.warmup_steps > 0
                           ? static_cast<double>(config.warmup_steps)
                           : config.warmup_epochs * static_cast<double>(steps_per_epoch);
  warmup_ = std::llround(asked);
  delay_ = (warmup_ + steps_per_unit_ - 1) / steps_per_unit_;
  length_ = epochs * steps_per_epoch / steps_per_unit_ - delay_;
  require(warmup_ == 0 || length_ > 0, Failure::usage,
          "a warm-up of {} steps leaves nothing of {} epochs of {} steps", warmup_, epochs,
          steps_per_epoch);
}

double Schedule::rate(int64_t attempted) const {
  const int64_t units = attempted / steps_per_unit_;
  if (attempted >= warmup_) return after_warmup(std::max<int64_t>(0, units - delay_));
  // A warm-up in epochs moves with the schedule's unit, one in steps with every step.
  const bool by_step = config_.warmup_steps > 0;
  const double done =
      by_step ? static_cast<double>(attempted) / static_cast<double>(warmup_)
              : static_cast<double>(units * steps_per_unit_) / static_cast<double>(warmup_);
  return after_warmup(0) * (config_.warmup_factor + (1 - config_.warmup_factor) * done);
}

double Schedule::after_warmup(int64_t units) const {
  const ScheduleConfig& c = config_;
  const auto t = static_cast<double>(units), length = static_cast<double>(length_);
  switch (c.kind) {
    case Kind::constant: return c.learning_rate;
    case Kind::cosine: return cosine(c.learning_rate, c.least, std::min(1., t / length));
    case Kind::step:
      return c.learning_rate * std::pow(c.gamma, static_cast<double>(units / c.every));
    case Kind::exponential: return c.learning_rate * std::pow(c.gamma, t);
    case Kind::one_cycle: {
      const double first = c.learning_rate / c.divisor, last = first / c.final_divisor;
      const double peak = c.rise * length - 1, end = length - 1;  // in steps
      // The peak may be the very first step, or the last.
      constexpr double kRounding = 1e-9;
      if (std::abs(t - peak) < kRounding) return c.learning_rate;
      if (t < peak) return cosine(first, c.learning_rate, t / peak);
      return cosine(c.learning_rate, last, std::min(1., (t - peak) / (end - peak)));
    }
    case Kind::plateau: return c.learning_rate * state_.factor;
  }
  return c.learning_rate;
}

bool Schedule::epoch_done(double watched) {
  if (config_.kind != Kind::plateau) return false;
  const bool better = config_.rising ? watched > state_.best * (1 + config_.threshold)
                                     : watched < state_.best * (1 - config_.threshold);
  if (better || (std::isinf(state_.best) && std::isfinite(watched))) {
    state_.best = watched;
    state_.bad_epochs = 0;
    return false;
  }
  if (++state_.bad_epochs <= config_.patience) return false;
  state_.bad_epochs = 0;
  const double reduced = state_.factor * config_.factor;
  if (config_.learning_rate * (state_.factor - reduced) <= config_.least_change) return false;
  state_.factor = reduced;
  return true;
}

}  // namespace engine
