// Which records of a device are which launches of a step. Pure: no device.
#pragma once

#include <span>
#include <vector>

#include "engine/cuda/trace.h"

namespace engine {

using LaunchRecords = std::vector<std::vector<DeviceRecord>>;  // per launch, by start

struct MatchedSteps {
  std::vector<char> beside;  // per launch: it ran on a stream beside that of the layers
  std::vector<LaunchRecords> steps;
};

// A captured step shows kernels without the launches that they belong to. Enqueued one by one each
// launch showed its kernels and its stream, and the graph keeps both their order on each of the two
// streams and their names. Records outside a graph, as uploads are, belong to no launch. Throws
// Error(internal), saying where, if the steps are not those kernels in that order.
MatchedSteps match_records(std::span<const OrderedLaunch> launches, const DeviceTrace& trace,
                           int steps);

}  // namespace engine
