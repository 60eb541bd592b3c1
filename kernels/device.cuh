// What kernels know of the device: the size of a warp, and sums over one.
#pragma once

#include "kernels/kernels.h"

namespace engine::kernels {

constexpr int kWarp = 32;  // threads

// The sum over the warp, in a fixed order; every thread gets it.
template <class N>
__device__ __forceinline__ N warp_sum(N value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffff, value, offset);
  return value;
}

}  // namespace engine::kernels
