// What stands between a step and the hardware: the gap report, of a step, of the sums over the
// ranks alone, and of the loader alone.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "tools/bench/profile.h"

namespace engine {

// The parts are measured each by itself and are to make up the step; what they miss is said.
struct StepGaps {
  double step_ms = 0;          // untraced, from result to result
  double roofline_ms = 0;      // of every launch the least time at the ceilings
  double inefficiency_ms = 0;  // busy beyond that; launches that find operands in a cache take less
  double gaps_ms = 0;          // idle between launches, less tracing_ms
  double exposed_ms = 0;       // sums over the ranks that nothing hides
  double waiting_ms = 0;       // for data and parameters, before the first launch
  double tracing_ms = 0;       // what tracing added to the step: it lies between kernels
  double accounted_ms() const {
    return roofline_ms + inefficiency_ms + gaps_ms + exposed_ms + waiting_ms;
  }
  double missed_ms() const { return step_ms - accounted_ms(); }
  bool adds_up() const;  // to within 3%
};

StepGaps step_gaps(const StepProfile& profile);

// A layer, both directions, or a launch outside the layers.
struct LayerGap {
  std::string layer;
  double ms = 0, least_ms = 0;
  double lost_ms() const { return ms - least_ms; }
};

// Those that lose most; the largest loss first.
std::vector<LayerGap> worst_layers(const StepProfile& profile, size_t count);

// The sums over the ranks: what they take alone, and what of it a step hides.
struct SumGaps {
  double bytes = 0;
  double bus_bytes_per_s = 0;  // of the fastest bucket: 2·(n − 1)/n of its bytes per second
  double at_rate_ms = 0;       // all bytes at that rate
  double alone_ms = 0;         // bucket after bucket, with nothing beside them
  double exposed_ms = 0;       // in the step
};

SumGaps sum_gaps(const StepProfile& profile);

// Tables of all of that; the sums only where there are several ranks.
std::string gap_text(const StepProfile& profile);
nlohmann::ordered_json gap_json(const StepProfile& profile);

// ---------------------------------------------------------------- the loader alone

struct LoaderRates {
  struct Stage {
    std::string name;
    double images_per_second = 0;  // on one core
  };
  std::vector<Stage> stages;  // from the file to the crop
  double one_thread = 0;      // images per second of all stages in one go
  int threads = 1;            // of the loader, each with a core of its own
  double loader = 0;          // images per second of the loader
  double upload = 0;          // images per second from pinned memory to the device
  double need = 0;            // images per second that the step computes; 0: not known
};

std::string loader_text(const LoaderRates& rates);

}  // namespace engine
