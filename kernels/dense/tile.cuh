// A tile of pixels in shared memory, with a border of one pixel, and its products with the nine taps
// of a 3 × 3 window.
//
// A chunk of 32 channels lies in four planes, each of one pack of eight channels for every staged
// pixel. So eight neighbouring pixels are eight neighbouring packs, which the matrix unit's loads
// read without conflict wherever they begin, and a tap is an offset. Threads copy raw packs there,
// and transform in place those that they copied; outside of the images lie zeros.
//
// A warp takes two cells of 8 × 4 pixels, side by side as the sixteen rows of four fragments. What it
// loads of one row of pixels serves the three taps above one another.
#pragma once

#include "kernels/dense_tiles.h"
#include "kernels/depthwise/matrix.cuh"
#include "kernels/device.cuh"
#include "kernels/gemm/mma.cuh"

namespace engine::kernels {

constexpr int kDenseMostThreads = 256;

// A thread of a block that is (x, y) for the merge of its sums, and linear for all else.
struct DenseThread {
  int index = threadIdx.y * blockDim.x + threadIdx.x, count = blockDim.x * blockDim.y;
  int warp = index / kWarp, lane = index % kWarp;
  // Of a result of the matrix unit: pixel g of a cell's row, columns 2t and 2t + 1.
  int g = lane / 4, t = lane % 4;
};

// Which packs of a stage a thread copied from an image, from its first on; the others are zero.
using Inside = uint32_t;

// Calls use(i, at) for the thread's pixels of a stage; it has the pack index % kDensePacks of each.
template <class Use>
__device__ __forceinline__ void for_staged(const DenseCut& cut, const DenseThread& me, Use use) {
  const int step = me.count / kDensePacks;
#pragma unroll 4
  for (int i = 0, at = me.index / kDensePacks; at < cut.staged; ++i, at += step) use(i, at);
}

// Asks for a chunk of channels from c on.
template <class T>
__device__ __forceinline__ Inside copy_chunk(Pack<T>* stage, const T* x, int pitch, int channels,
                                             int c, const DenseCut& cut, const DensePlace& place,
                                             const DenseThread& me) {
  const int pack = me.index % kDensePacks, channel = c + pack * kPack;
  const bool present = channel < channels;
  Inside inside = 0;
  for_staged(cut, me, [&](int i, int at) {
    const int pixel = present ? dense_staged(cut, place, at) : -1;
    Pack<T>* const to = stage + pack * cut.plane + at;
    if (pixel < 0) {
      store_vector(&to->at[0], Pack<T>{});
      return;
    }
    copy_async(to, x + int64_t{pixel} * pitch + channel);
    inside |= Inside{1} << i;
  });
  return inside;
}

// Calls change(values, at) for the packs that the thread copied, and keeps the values, rounded. Some
// are read before the first one is changed.
template <class T, class Change>
__device__ __forceinline__ void change_chunk(Pack<T>* stage, Inside inside, const DenseCut& cut,
                                             const DenseThread& me, Change change) {
  constexpr int kTogether = 4;
  const int step = me.count / kDensePacks;
  int at = me.index % kDensePacks * cut.plane + me.index / kDensePacks;
  for (; inside != 0; inside >>= kTogether, at += kTogether * step) {
    Pack<T> packs[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (inside >> i & 1) packs[i] = load_vector<kPack>(&stage[at + i * step].at[0]);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (!(inside >> i & 1)) continue;
      float value[kPack];
      to_floats(value, packs[i]);
      change(value, at + i * step);
      store_vector(&stage[at + i * step].at[0], vector_of<T>(value));
    }
  }
}

// What a lane of a warp addresses of a stage: matrices 0 and 1 are the first pack of its two cells,
// 2 and 3 the second. In packs, from the stage's first one.
__device__ __forceinline__ int lane_of_cells(const DenseCut& cut, const DenseThread& me,
                                             int first_cell) {
  const int matrix = me.lane / 8;
  return matrix / 2 * cut.plane + dense_corner(cut, first_cell + matrix % 2) + me.lane % 8;
}

// sum[row] += a chunk · its weights. load_weights(b, half, tap) loads the fragments of sixteen of its
// channels at a tap; `cells` is the shared address of lane_of_cells().
template <class T, int Tiles, class LoadWeights>
__device__ __forceinline__ void multiply_chunk(float (&sum)[kDenseRows][Tiles][4], uint32_t cells,
                                               const DenseCut& cut, LoadWeights load_weights) {
  const uint32_t row_bytes = cut.pitch * sizeof(Pack<T>),
                 two_planes = 2 * cut.plane * sizeof(Pack<T>);
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll 1
    for (int kw = 0; kw < 3; ++kw) {
      uint32_t b[3][Tiles][2];
#pragma unroll
      for (int kh = 0; kh < 3; ++kh) load_weights(b[kh], half, kh * 3 + kw);
      const uint32_t from = cells + half * two_planes + kw * sizeof(Pack<T>);
#pragma unroll
      for (int staged = 0; staged < kDenseRows + 2; ++staged) {
        uint32_t a[4];
        banded::load_matrices(a, from + staged * row_bytes);
#pragma unroll
        for (int kh = 0; kh < 3; ++kh) {
          const int row = staged - kh;
          if (row < 0 || row >= kDenseRows) continue;
#pragma unroll
          for (int j = 0; j < Tiles; ++j)
            multiply<T>(sum[row][j], a[0], a[1], a[2], a[3], b[kh][j][0], b[kh][j][1]);
        }
      }
    }
}

// Calls use(cell, row, pixel) for the pixels of a thread's results that the images have: those of
// sum[row][…][2 · cell …].
template <class Use>
__device__ __forceinline__ void for_results(const DenseCut& cut, const DensePlace& place,
                                            int first_cell, int g, Use use) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int cell = first_cell + i, strip = cell / cut.columns, image = strip / cut.strips;
    const int x = place.x + (cell - strip * cut.columns) * kDenseWidth + g;
    const int y = place.y + (strip - image * cut.strips) * kDenseRows;
#pragma unroll
    for (int row = 0; row < kDenseRows; ++row) {
      const int pixel = image < cut.images ? dense_pixel(cut, place.image + image, y + row, x) : -1;
      if (pixel >= 0) use(i, row, int64_t{pixel});
    }
  }
}

}  // namespace engine::kernels
