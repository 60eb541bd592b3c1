// Merging in the producer: of the blocks that share a ticket, the one that comes last merges the
// partial sums of all, in a fixed order, so the bits do not depend on which block that is.
#pragma once

#include <cuda_runtime_api.h>

namespace engine::kernels {

// Whether this block is the last of `blocks` to come here; the same for all its threads, which all
// call it. What any of the blocks wrote before, the last one sees by __ldcg. The ticket is zero
// before a launch and again after it. threadIdx.y and z are not used.
__device__ __forceinline__ bool comes_last(unsigned* ticket, int blocks) {
  __threadfence();
  __syncthreads();
  const unsigned last = static_cast<unsigned>(blocks) - 1;
  const bool mine = threadIdx.x == 0 && atomicInc(ticket, last) == last;
  if (!__syncthreads_or(mine)) return false;
  __threadfence();
  return true;
}

}  // namespace engine::kernels
