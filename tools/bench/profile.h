// Where the time of a training step goes, launch by launch; and the same step while nobody watches,
// for what watching costs. On a GPU the times are those of CUPTI's records, elsewhere those of a
// clock around each launch.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/ceilings.h"
#include "engine/plan.h"
#include "tools/bench/records.h"
#include "tools/bench/step.h"
#include "tools/machine/device.h"

namespace engine {

enum class StepPhase { forward, backward, update };
std::string_view name_of(StepPhase phase);

struct ProfiledLaunch {
  std::string kernel, shape;
  std::string layer;      // as the graph names it; outside the layers "(kernel)"
  std::string_view kind;  // "depthwise", "cuBLASLt", "sweeps", …: see kind_of_kernel()
  StepPhase phase = StepPhase::forward;
  Cost cost;
  double ms = 0;        // busy: the sum of its kernels, on either stream
  double gap_ms = 0;    // its stream is idle before its kernels
  int kernels = 0;      // of a step; a launch on the host is one
  bool beside = false;  // nothing of it is on the stream of the layers
};

// A kernel of one step, for a timeline; ms from the start of the step.
struct TimelineSlice {
  int launch = 0;
  std::string name;
  bool beside = false;
  double start_ms = 0, ms = 0;
};

struct TracedSteps {
  double ms = 0;  // from the first start to the last end
  std::vector<ProfiledLaunch> launches;
  std::vector<TimelineSlice> timeline;  // of the step of median length
};

// Untraced.
struct UntracedStep {
  double ms = 0;          // from result to result
  double marked_ms = 0;   // from Mark::begin to Mark::end
  double waiting_ms = 0;  // from the end of the step before, or from the call, to Mark::begin
  double joining_ms = 0;  // from Mark::backward to Mark::reduced
};

// The sum of one bucket over the ranks, with nothing beside it.
struct BucketTime {
  double bytes = 0, ms = 0;
};

struct StepProfile {
  std::string hardware;
  BackendKind backend = BackendKind::cpu;
  int ranks = 1, threads = 0;
  Precision precision = Precision::fp32;
  StepBench bench;
  Ceilings ceilings;
  UntracedStep untraced;
  TracedSteps traced;
  std::vector<BucketTime> buckets;  // of several ranks
  Plan::Totals memory{};
};

// The kind of a launch by the name of its kernel; "other" where it is not known.
std::string_view kind_of_kernel(std::string_view kernel);

// The places of the values between the quartiles, at least one: a mean over them is steady, and
// parts of it still add up.
std::vector<size_t> middle_half(std::span<const double> values);

// Means over the middle half of the steps by length. `launches` are those of a session with marks.
TracedSteps summarise(std::span<const OrderedLaunch> launches, const Graph& graph,
                      std::span<const LaunchRecords> steps);

// `bench.steps` steps untraced, and as many launch by launch, on a GPU at most 20; figures of rank
// 0.
StepProfile profile_step(StepBench bench, const Ranks& ranks);

// Runs `bench.steps` steps launch by launch, not captured, each layer in an NVTX range, for a
// profiler outside. On a GPU.
void run_in_ranges(StepBench bench, const Ranks& ranks);

}  // namespace engine
