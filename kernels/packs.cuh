// Packs of eight channels that may not be there: read or copied without a branch.
#pragma once

#include "kernels/depthwise/matrix.cuh"
#include "kernels/gemm/mma.cuh"

namespace engine::kernels {

// A pack, or zeros without a branch.
template <class T>
__device__ __forceinline__ Pack<T> load_if(bool wanted, const T* from) {
  uint4 bits;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\nmov.b32 %0, 0;\nmov.b32 %1, 0;\n"
      "mov.b32 %2, 0;\nmov.b32 %3, 0;\n@p ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "=&r"(bits.x), "=&r"(bits.y), "=&r"(bits.z), "=&r"(bits.w)
      : "l"(from), "r"(int{wanted}));
  return *reinterpret_cast<const Pack<T>*>(&bits);
}

// Copies a pack past L1, or zeros.
template <class T>
__device__ __forceinline__ void copy_or_zero(Pack<T>* to, const T* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(banded::shared_address(to)),
               "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}

// Keeps addresses in registers of their own: a copy reads its address late, and the next one would
// wait for it before it changed a register that both use.
template <class T, int N>
__device__ __forceinline__ void keep_apart(const T* (&addresses)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+l"(addresses[i]));
}

}  // namespace engine::kernels
