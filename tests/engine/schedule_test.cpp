// Learning rates against traces of torch.optim.lr_scheduler, recorded by
// tools/compare/schedules.py.
#include "engine/schedule.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/error.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using nlohmann::json;
using Kind = ScheduleConfig::Kind;
using Unit = ScheduleConfig::Unit;

namespace {

ScheduleConfig config_of(const json& trace) {
  static const std::map<std::string, Kind> kinds = {
      {"constant", Kind::constant},   {"cosine", Kind::cosine},
      {"step", Kind::step},           {"exponential", Kind::exponential},
      {"one_cycle", Kind::one_cycle}, {"plateau", Kind::plateau}};
  ScheduleConfig c{.kind = kinds.at(trace["kind"]),
                   .unit = trace["unit"] == "step" ? Unit::step : Unit::epoch,
                   .learning_rate = trace["rate"]};
  (c.unit == Unit::step) ? c.warmup_steps = trace.value("warmup", 0)
                         : c.warmup_epochs = trace.value("warmup", 0);
  c.warmup_factor = trace.value("warmup_factor", c.warmup_factor);
  c.least = trace.value("least", c.least);
  c.gamma = trace.value("gamma", c.gamma);
  c.every = trace.value("every", c.every);
  c.rise = trace.value("rise", c.rise);
  c.divisor = trace.value("divisor", c.divisor);
  c.final_divisor = trace.value("final_divisor", c.final_divisor);
  c.factor = trace.value("factor", c.factor);
  c.patience = trace.value("patience", c.patience);
  c.rising = trace.value("rising", false);
  return c;
}

}  // namespace

TEST_CASE("every schedule follows torch.optim.lr_scheduler") {
  const json record = test::golden("schedules.json");
  int traces = 0;
  for (const json& trace : record["traces"]) {
    const int64_t steps = trace["steps_per_epoch"];
    Schedule schedule(config_of(trace), steps, trace["epochs"]);
    double worst = 0;
    const auto& rates = trace["rates"];
    for (int64_t step = 0; step < static_cast<int64_t>(rates.size()); ++step) {
      worst = test::worse(worst, std::abs(schedule.rate(step) - rates[step].get<double>()));
      if ((step + 1) % steps == 0)
        schedule.epoch_done(trace.contains("losses") ? trace["losses"][step / steps].get<double>()
                                                     : 1.);
    }
    CHECK_MESSAGE(worst <= 1e-12, trace["kind"] << " by " << trace["unit"] << ", warm-up "
                                                << trace.value("warmup", 0) << ": off by "
                                                << worst);
    ++traces;
  }
  CHECK(traces == 22);
}

TEST_CASE("a rate depends on the step alone, plateau's on its state besides") {
  for (Kind kind : {Kind::constant, Kind::cosine, Kind::step, Kind::exponential, Kind::one_cycle,
                    Kind::plateau}) {
    const ScheduleConfig config{.kind = kind, .unit = Unit::step, .warmup_steps = 5, .every = 7};
    Schedule whole(config, 10, 6);
    for (int epoch = 0; epoch < 3; ++epoch) whole.epoch_done(1);
    const Schedule resumed(config, 10, 6, whole.state());
    for (int64_t step : {31, 3, 59, 4, 1000}) CHECK(resumed.rate(step) == whole.rate(step));
  }
}

TEST_CASE("a warm-up in steps rises with every step, also before a schedule by epochs") {
  const Schedule schedule({.kind = Kind::step,
                           .learning_rate = 1,
                           .warmup_steps = 15,
                           .warmup_factor = 0.1,
                           .gamma = 0.5,
                           .every = 1},
                          10, 6);
  CHECK(schedule.rate(0) == doctest::Approx(0.1));
  CHECK(schedule.rate(5) == doctest::Approx(0.4));
  CHECK(schedule.rate(14) == doctest::Approx(0.94));
  CHECK(schedule.rate(15) == 1);
  CHECK(schedule.rate(29) == 1);  // its first whole epoch is the third
  CHECK(schedule.rate(30) == 0.5);
}

TEST_CASE("a warm-up as long as the run is refused") {
  CHECK_THROWS_AS(Schedule({.kind = Kind::cosine, .warmup_epochs = 6}, 10, 6), Error);
  CHECK_THROWS_AS(Schedule({.kind = Kind::cosine, .warmup_steps = 55}, 10, 6), Error);
  CHECK_NOTHROW(Schedule({.kind = Kind::cosine, .unit = Unit::step, .warmup_steps = 55}, 10, 6));
}

// PyTorch divides by zero there.
TEST_CASE("one-cycle whose rise is one step begins at the peak") {
  const ScheduleConfig cycle{.kind = Kind::one_cycle, .learning_rate = 0.5, .rise = 0.1};
  const Schedule one_step(cycle, 10, 1);
  CHECK(one_step.rate(0) == 0.5);
  CHECK(one_step.rate(1) < 0.5);
  for (const double rise : {0., 1. / 49, 0.1, 0.5, 1.})
    for (const int64_t steps : {1, 2, 10, 49}) {
      ScheduleConfig c = cycle;
      c.rise = rise;
      const Schedule schedule(c, steps, 1);
      double largest = 0;
      for (int64_t t = 0; t < steps; ++t) {
        CHECK(std::isfinite(schedule.rate(t)));
        largest = std::max(largest, schedule.rate(t));
      }
      CHECK(largest <= 0.5);
    }
}
