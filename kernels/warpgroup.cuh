// Products by a warpgroup: 64 rows by N columns, of operands that lie in shared memory in planes.
// Eight 16-bit values of one position (a pixel, or a row of weights) are a pack of 16 bytes; the
// packs of neighbouring positions are neighbours, and a plane holds one pack of every position.
// Values along a pack are channels, and planes follow one another along the channels.
//
// Both orders of a product read such planes: rows along positions and the inner dimension along
// channels, or rows along channels and the inner dimension along positions. Either may begin at any
// position, so a tap of a window is an offset. On sm_90a the matrix unit reads both operands itself
// (PTX ISA, wgmma: no swizzle, core matrices of 8 × 16 bytes, K-major and MN-major); elsewhere each
// warp makes its sixteen rows by mma.sync.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/matrix.cuh"
#include "kernels/wgmma.cuh"

namespace engine::kernels {

constexpr int kWarpgroup = 128;      // threads
constexpr int kWarpgroupDepth = 16;  // values of the inner dimension of one
constexpr uint32_t kPackBytes = 16;

// The descriptor of an operand whose first pack is at shared address `from`; its planes are `plane`
// packs apart. Adding n to it moves it by n packs.
template <Inner Along>
__device__ __forceinline__ uint64_t planes_descriptor(uint32_t from, int plane) {
  constexpr uint64_t kEight = 8;  // packs from eight positions to the next eight
  const uint64_t apart = static_cast<uint32_t>(plane);
  // Leading: the next pack along the inner dimension, or the next eight positions along it. Stride:
  // what follows along the other dimension.
  const uint64_t leading = Along == Inner::channels ? apart : kEight;
  const uint64_t stride = Along == Inner::channels ? kEight : apart;
  return static_cast<uint64_t>((from & 0x3ffffu) >> 4) | leading << 16 | stride << 32;
}

// The descriptor of an operand whose positions are rows of 64 or 128 bytes of channels, as the copy
// engine leaves them: eight rows are an atom, in which the packs of a row have changed places by
// its number (CU_TENSOR_MAP_SWIZZLE_64B, _128B), and atoms follow one another. Atoms begin at
// multiples of 1024 bytes. Adding n to it moves it by n packs: along channels, whose packs are two
// to a product; or by whole atoms along positions. sm_90a.
template <int RowBytes>
__device__ __forceinline__ uint64_t rows_descriptor(uint32_t from) {
  static_assert(RowBytes == 64 || RowBytes == 128);
  constexpr uint64_t kSwizzle = RowBytes == 128 ? 1 : 2, kAtom = 8 * RowBytes / kPackBytes;
  return static_cast<uint64_t>((from & 0x3ffffu) >> 4) | uint64_t{1} << 16 | kAtom << 32 |
         kSwizzle << 62;
}

// An operand n packs further, by one addition: addresses do not leave the lower word.
__device__ __forceinline__ uint64_t moved(uint64_t operand, int n) {
  return (operand & 0xffffffff00000000ull) | static_cast<uint32_t>(static_cast<int>(operand) + n);
}

// Whether the code that is compiled runs on a device that has such products.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kWarpgroups = true;
#else
constexpr bool kWarpgroups = false;
#endif

// Whether a kernel that uses them without asking kWarpgroups can run here, with so much shared
// memory; what was asked for it before stays allowed.
template <class Kernel>
bool multiplies_here(Kernel* kernel, int shared_bytes) {
  cudaFuncAttributes attributes{};
  const bool able =
      cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.binaryVersion == 90 &&
      (shared_bytes <= attributes.maxDynamicSharedSizeBytes ||
       cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) ==
           cudaSuccess);
  cudaGetLastError();  // what failed here fails nothing else
  return able;
}

// Waits for the threads of a warpgroup of the block.
__device__ __forceinline__ void sync_warpgroup(int warpgroup) {
  asm volatile("bar.sync %0, %1;" ::"r"(warpgroup + 1), "n"(kWarpgroup) : "memory");
}

// What the thread wrote to shared memory is visible to products after the barrier that follows.
__device__ __forceinline__ void show_to_products() {
  if constexpr (kWarpgroups) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Before the first product, and after registers of its result were touched.
__device__ __forceinline__ void open_products() {
  if constexpr (kWarpgroups) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  if constexpr (kWarpgroups) asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most `Pending` of the newest groups of products are under way.
template <int Pending>
__device__ __forceinline__ void wait_products() {
  if constexpr (kWarpgroups)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Shared memory where a thread finds its part of its warp's sixteen rows and sixteen values of the
// inner dimension, of an operand that begins at `from`.
template <Inner Along>
__device__ __forceinline__ uint32_t rows_address(uint32_t from, uint32_t plane) {
  const uint32_t thread = threadIdx.y * blockDim.x + threadIdx.x, warp = thread / 32 % 4;
  const uint32_t low = thread % 16 / 8, high = thread % 32 / 16, row = thread % 8;
  const uint32_t pack = Along == Inner::channels ? high * plane + warp * 16 + low * 8 + row
                                                 : (warp * 2 + low) * plane + high * 8 + row;
  return from + pack * kPackBytes;
}
template <Inner Along>
__device__ __forceinline__ void load_rows(uint32_t (&a)[4], uint32_t address) {
  if constexpr (Along == Inner::channels)
    banded::load_matrices(a, address);
  else
    banded::load_transposed(a, address);
}

// Where the operand of a descriptor begins, and how far apart its planes are.
template <Inner Along>
struct Planes {
  uint32_t from, plane;

  __device__ __forceinline__ explicit Planes(uint64_t of)
      : from((static_cast<uint32_t>(of) & 0x3fffu) * kPackBytes),
        plane(static_cast<uint32_t>(Along == Inner::channels ? of >> 16 : of >> 32) & 0x3fffu) {}
};

// A warp's sixteen rows of the product.
template <class T, Inner B, int Tiles>
__device__ __forceinline__ void multiply_by_warps(float (&c)[Tiles][4], const uint32_t (&a)[4],
                                                  uint64_t b, bool adds) {
  static_assert(Tiles % 2 == 0);
  const uint32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
  const uint32_t low = thread % 16 / 8, high = thread % 32 / 16, row = thread % 8;
  const Planes<B> of(b);
#pragma unroll
  for (int j = 0; j < Tiles; j += 2) {
    uint32_t of_b[4];
    if constexpr (B == Inner::channels)
      banded::load_matrices(of_b, of.from + (low * of.plane + (j + high) * 8 + row) * kPackBytes);
    else
      banded::load_transposed(of_b, of.from + ((j + high) * of.plane + low * 8 + row) * kPackBytes);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!adds) c[j + i][0] = c[j + i][1] = c[j + i][2] = c[j + i][3] = 0;
      banded::multiply<T>(c[j + i], a, of_b[2 * i], of_b[2 * i + 1]);
    }
  }
}

// c (64, 8 · Tiles) += a (64, 16) · b (16, 8 · Tiles), or = if not `adds`, once the group of
// products that it is committed in has been waited for. Thread (warp, g, t) holds rows 16 warp + g
// and + 8 of c, at columns 8 j + 2 t and + 1: c[j] = (two of the first row, two of the other).
template <class T, Inner A, Inner B, int Tiles>
__device__ __forceinline__ void multiply_planes(float (&c)[Tiles][4], uint64_t a, uint64_t b,
                                                bool adds) {
  if constexpr (kWarpgroups) {
    multiply_async<T, A, B>(c, a, b, adds);
  } else {
    uint32_t rows[4];
    const Planes<A> of(a);
    load_rows<A>(rows, rows_address<A>(of.from, of.plane));
    multiply_by_warps<T, B>(c, rows, b, adds);
  }
}
// c += the same with the rows of a in registers, which may change once the group has been waited
// for.
template <class T, Inner B, int Tiles>
__device__ __forceinline__ void multiply_rows(float (&c)[Tiles][4], const uint32_t (&a)[4],
                                              uint64_t b) {
  if constexpr (kWarpgroups)
    multiply_async<T, B>(c, a, b);
  else
    multiply_by_warps<T, B>(c, a, b, true);
}

}  // namespace engine::kernels
