// Boxes of tensors that the copy engine (TMA) brings to shared memory while a block computes, and
// the barrier that says when they are there. sm_90.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace engine::kernels::banded {

// A tensor and the box of it that one copy brings; dimension 0 is contiguous. What of a box lies
// outside the tensor arrives as zeros.
struct BoxedTensor {
  const void* data;
  CUtensorMapDataType type;
  int dimensions;      // 2 or 4
  int64_t sizes[4];    // elements
  int64_t strides[4];  // bytes from one index to the next; [0] is the size of an element
  int box[4];          // elements
};

// False where there is no copy engine, or the tensor does not lie as it wants: 16 bytes divide the
// address, the strides and the row of a box.
bool describe(CUtensorMap& map, const BoxedTensor& tensor);

__device__ __forceinline__ void barrier_init(uint32_t barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(barrier));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

// The box of an (N, H, W, C) tensor at (n, y, x, c), and of an (N, C) one at (n, c).
__device__ __forceinline__ void load_box(uint32_t to, const CUtensorMap* map, int c, int x, int y,
                                         int n, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void load_box(uint32_t to, const CUtensorMap* map, int c, int n,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(c), "r"(n), "r"(barrier)
      : "memory");
}

}  // namespace engine::kernels::banded
