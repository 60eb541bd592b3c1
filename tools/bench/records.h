// Which records of a device are which launches of a step. Pure: no device.
#pragma once

#include <span>
#include <vector>

#include "engine/cuda/trace.h"

namespace engine {

// Of a matched record: that of the layers, and that of the sums over the ranks beside it.
enum TraceStream : uint32_t { kLayersStream, kBesideStream };

using LaunchRecords = std::vector<std::vector<DeviceRecord>>;  // of a step: per launch, by start

// A captured step shows kernels without the launches that they belong to. Enqueued one by one each
// launch showed its kernels and their streams, and the graph keeps their names, and their order on
// each of the two streams. Records outside a graph, as uploads are, belong to no launch. Throws
// Error(internal), saying where, if the steps are not those kernels in that order.
std::vector<LaunchRecords> match_records(std::span<const OrderedLaunch> launches,
                                         const DeviceTrace& trace, int steps);

}  // namespace engine
