// The price of subtracting a batch norm's two terms after rounding: how large k0 is beside the
// gradient that remains, per channel.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/rig.h"

namespace engine {

struct BufferStats {
  std::string buffer;
  int channels = 0;    // with a gradient
  int above = 0;       // of them: |k0| / rms(dx) > kLargeRatio
  double largest = 0;  // ratio
  double median = 0;   // ratio
};

constexpr double kLargeRatio = 0.1;

// Of every buffer that a norm reads, in forward order, from one training step on random images.
std::vector<BufferStats> gradient_stats(const Graph& graph, Backend& backend,
                                        const PlanOptions& options);

}  // namespace engine
