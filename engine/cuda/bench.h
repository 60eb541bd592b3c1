// What the CUDA module measures of the launches of a training step.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/ceilings.h"
#include "engine/launch.h"
#include "engine/precision.h"

namespace engine {

class Backend;

struct KernelBench {
  std::span<const OrderedLaunch> launches;  // of one step, in order
  std::function<void()> step;               // enqueues that step as the session runs it
  std::vector<int> left_out;                // steps of the graph whose launches are not measured
  Precision precision = Precision::fp32;
  int runs = 20;  // of each kernel and shape alone, every one on a cold L2
  // Only the launches whose "kernel shape" holds this text, and nothing else: for a profiler
  // outside, which is told to record while they run alone. Empty: all.
  std::string filter;
};

// The launches of one kernel and shape.
struct KernelTime {
  std::string kernel, shape;
  int count = 0;           // launches in a step
  Cost cost;               // of one launch
  std::vector<float> ms;   // of one launch alone on a cold L2, one per run
  double in_order_ms = 0;  // of all `count` in the order of the step, with what L2 holds then
};

struct KernelTimes {
  std::string gpu;
  Ceilings ceilings;
  double captured_ms = 0;  // the step, as the session runs it
  double enqueued_ms = 0;  // its launches one after the other, never waiting for the host
  double in_order_ms = 0;  // the sum of the launches, an event between any two
  std::vector<KernelTime> kernels;
};

namespace cuda {

// A copy of 512 MiB, and an 8192³ product of random numbers.
Ceilings measure_ceilings(Backend& backend, Precision precision);

// Runs the ceilings, then the step, then every launch of it. The session that made the launches is
// idle. Throws Error(usage) where the filter lets nothing through.
KernelTimes time_kernels(Backend& backend, const KernelBench& bench);

}  // namespace cuda
}  // namespace engine
