// What kernels know of the device: the size of a warp, sums over one, special functions.
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

// The sum over the threads of a warp that have the same lane % 4, in a fixed order; each gets it.
// Of a result of the matrix unit, whose rows are lane / 4, it is that over the rows.
__device__ __forceinline__ float rows_sum(float value) {
#pragma unroll
  for (int offset = 4; offset < kWarp; offset *= 2)
    value += __shfl_xor_sync(0xffffffff, value, offset);
  return value;
}

// One special-function operation, of a relative error of at most 2⁻¹¹: half the last place of fp16.
__device__ __forceinline__ float tanh_approximate(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace engine::kernels
