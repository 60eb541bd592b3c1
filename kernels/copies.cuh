// Boxes of tensors that the copy engine (TMA) brings to shared memory while a block computes, where
// they arrive at a barrier, or takes from there. sm_90.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

#include "kernels/barrier.cuh"

namespace engine::kernels {

// A tensor and the box of it that one copy brings; dimension 0 is contiguous. What of a box lies
// outside the tensor arrives as zeros.
struct BoxedTensor {
  const void* data;
  CUtensorMapDataType type;
  int dimensions;      // 2 or 4
  int64_t sizes[4];    // elements
  int64_t strides[4];  // bytes from one index to the next; [0] is the size of an element
  int box[4];          // elements
  // How the 16 bytes of a row change places in shared memory, if rows are 64 or 128 bytes long
  // (CUtensorMapSwizzle).
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
};

// False where there is no copy engine, or the tensor does not lie as it wants: 16 bytes divide the
// address, the strides and the row of a box.
bool describe(CUtensorMap& map, const BoxedTensor& tensor);

// Boxes of `rows` pixels and 32 or 64 channels of (pixels, pitch) 16-bit values, whose rows of 64
// or 128 bytes lie as rows_descriptor() wants them.
template <class T>
BoxedTensor boxed_rows(const T* data, int pixels, int channels, int pitch, int columns, int rows) {
  return {data,
          std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
          2,
          {channels, pixels},
          {sizeof(T), int64_t{pitch} * int64_t{sizeof(T)}},
          {columns, rows},
          columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B};
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

// Begins to store a box of an (N, C) tensor from shared memory, by one thread, once all who wrote
// it have shown it to the copy engine; what lies outside the tensor is dropped. The thread waits
// before the box is written again, and before it ends.
__device__ __forceinline__ void store_box(uint32_t from, const CUtensorMap* map, int c, int n) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(c), "r"(n), "r"(from)
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all boxes but `Pending` that the thread has begun to store have been read; and until they
// are stored.
template <int Pending>
__device__ __forceinline__ void wait_boxes_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
__device__ __forceinline__ void wait_boxes() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace engine::kernels
