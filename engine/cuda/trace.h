// What the CUDA module records of a training step: every kernel, copy and fill that the device ran,
// with the launch that enqueued it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/launch.h"

namespace engine {

class Backend;

struct DeviceRecord {
  std::string name;             // of the kernel, as C++ spells it; "memset", "memcpy"
  uint64_t start = 0, end = 0;  // ns of a clock that all records share
  uint32_t stream = 0;
  bool captured = false;  // a node of a captured graph
  int launch = -1;        // the launch that enqueued it, where that was asked for
};

struct TraceRun {
  std::span<const OrderedLaunch> launches;  // of one step, in order
  std::function<void()> step;               // enqueues that step as the session runs it
  int steps = 5;
};

// Both by start. DeviceRecord::launch is set in `one_by_one` alone: a captured graph does not know
// the launches that it was made of.
struct DeviceTrace {
  std::vector<DeviceRecord> one_by_one;  // the launches, enqueued in order without a graph
  std::vector<DeviceRecord> steps;       // `TraceRun::steps` steps, one after the other
};

namespace cuda {

class Tracer;

// Records from now until the tracer goes. Graphs that are captured later show their nodes, so a
// session is prepared after this. One at a time in a process. Throws Error(usage) where CUPTI is
// not found.
std::shared_ptr<Tracer> open_trace();

// The session that made the launches is idle; of several ranks each runs the same launches and
// steps, and one of them traces.
DeviceTrace trace_step(Tracer& tracer, Backend& backend, const TraceRun& run);

// Runs `body` in an NVTX range of that name, which profilers outside show.
void in_range(const std::string& name, const std::function<void()>& body);

}  // namespace cuda
}  // namespace engine
