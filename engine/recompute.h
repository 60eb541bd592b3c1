// Which outputs lean memory computes again in the backward instead of keeping them: those that are
// in the way where most memory is in use, the cheapest first, until none is in the way there.
#pragma once

#include <array>
#include <vector>

#include "engine/lifetimes.h"

namespace engine {

// The forward of `step` runs again, without statistics, before the backward of `before`.
struct Recomputation {
  int step = 0, before = 0;
  double moved = 0;  // bytes
};

// An output that can be computed again: that of a convolution which has its buffer to itself.
struct Recomputable {
  int step = 0;                 // whose forward computes it
  int buffer = 0, operand = 0;  // the buffers that this forward writes and reads
  double moved = 0;             // bytes, by this forward
  // Its memory, whose second life begins where the backward first reads it.
  Tenant* data = nullptr;
  // The scratch of the forward, which gets a second life if this is chosen.
  std::array<Tenant*, 4> scratch{};
};

// Chooses among `outputs`, which are in the order of their steps; `in_use` are the bytes in use if
// all are kept. Returns the chosen in the order in which they run.
std::vector<Recomputation> recompute(const std::vector<Recomputable>& outputs,
                                     const std::vector<size_t>& in_use, const StepClock& clock);

}  // namespace engine
