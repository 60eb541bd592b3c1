// A prepared step as the list of its launches: what runs, on what shape, and what it costs. The
// session runs the list; benchmarks and profiles read it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine {

// The declared cost: each operand is read once and each result written once; an accumulated result
// is read and written. Products and convolutions have two flops per multiply-add, sweeps have none.
struct Cost {
  double bytes = 0, flops = 0;
  Cost& operator+=(const Cost& other) {
    bytes += other.bytes;
    flops += other.flops;
    return *this;
  }
};

// One kernel or library call. A launcher of several kernels, like a sweep and the merge of its
// sums, is one launch.
struct Launch {
  std::string_view kernel;        // a literal: "load_operand", "cuBLASLt wgrad"
  std::string shape;              // "128x56x56x192/192 norm silu gate"
  Cost cost;                      // by the declared formula
  std::function<void()> enqueue;  // on the backend's stream; allocates nothing, looks up nothing
};

using Launches = std::vector<Launch>;

inline Launches one_launch(std::string_view kernel, std::string shape, const Cost& cost,
                           std::function<void()> enqueue) {
  Launches launches;
  launches.push_back({kernel, std::move(shape), cost, std::move(enqueue)});
  return launches;
}

// The launches of one step of the graph, in order; any list may be empty. `again` is the forward
// without statistics, of a step whose output lean memory computes again before the backward that
// reads it.
struct StepExec {
  Launches forward, backward, again;
};

// A launch in the order of a whole step. `step` is the index of its step in the graph, -1 outside
// the layers.
struct OrderedLaunch {
  const Launch* launch = nullptr;
  int step = -1;
};

inline void enqueue(const Launches& launches) {
  for (const Launch& launch : launches) launch.enqueue();
}

}  // namespace engine
