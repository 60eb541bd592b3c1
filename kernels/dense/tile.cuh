// A tile of pixels in shared memory, with a border of one pixel, and its products with the nine
// taps of a 3 × 3 window.
//
// A chunk of 32 channels lies in four planes, each of one pack of eight channels for every staged
// pixel. So eight neighbouring pixels are eight neighbouring packs, which the matrix unit's loads
// read without conflict wherever they begin, and a tap is an offset. Threads copy raw packs there,
// and transform in place those that they copied; outside of the images lie zeros.
//
// A warp takes two cells of 8 × 4 pixels, side by side as the sixteen rows of four fragments. What
// it loads of one row of pixels serves the three taps above one another.
#pragma once

#include "kernels/dense_tiles.h"
#include "kernels/depthwise/matrix.cuh"
#include "kernels/device.cuh"
#include "kernels/gemm/source.cuh"

namespace engine::kernels {

constexpr int kDenseMostThreads = 256;

// A thread of a block that is (x, y) for the merge of its sums, and linear for all else.
struct DenseThread {
  int index = threadIdx.y * blockDim.x + threadIdx.x, count = blockDim.x * blockDim.y;
  int warp = index / kWarp, lane = index % kWarp;
  // Of a result of the matrix unit: pixel g of a cell's row, columns 2t and 2t + 1.
  int g = lane / 4, t = lane % 4;
};

// Where a chunk lies: `pixels` of each pack, whose planes are `plane` packs apart.
struct Planes {
  int plane, pixels;
};
__device__ __forceinline__ Planes tile_planes(const DenseCut& cut) {
  return {cut.plane, cut.staged};
}

// Which of its pixels of a chunk a thread met in an image, from its first on. It has pack
// index % kDensePacks of every so many pixels.
using Inside = uint32_t;

// Calls copy(at, pixel) for the thread's pixels; pixel = where(at) is that of the batch, or −1.
template <class Where, class Copy>
__device__ __forceinline__ Inside copy_pixels(int pixels, const DenseThread& me, Where where,
                                              Copy copy) {
  const int step = me.count / kDensePacks;
  Inside inside = 0;
#pragma unroll 1
  for (int i = 0, at = me.index / kDensePacks; at < pixels; ++i, at += step) {
    const int pixel = where(at);
    copy(at, pixel);
    if (pixel >= 0) inside |= Inside{1} << i;
  }
  return inside;
}

// A pack of a tensor whose channel c is the thread's; zero outside of it.
template <class T>
__device__ __forceinline__ void copy_pack(Pack<T>* to, const T* x, int pitch, int channels, int c,
                                          int pixel) {
  if (pixel >= 0 && c < channels)
    copy_async(to, x + int64_t{pixel} * pitch + c);
  else
    store_vector(&to->at[0], Pack<T>{});
}

// Calls change(values, at) for the thread's packs that are inside, and keeps the values, rounded.
// `Together` are read before the first of them is changed: more where registers are left.
template <int Together, class T, class Change>
__device__ __forceinline__ void change_chunk(Pack<T>* chunk, const Planes& planes, Inside inside,
                                             const DenseThread& me, Change change) {
  const int step = me.count / kDensePacks;
  int at = me.index % kDensePacks * planes.plane + me.index / kDensePacks;
  for (; inside != 0; inside >>= Together, at += Together * step) {
    Pack<T> packs[Together];
#pragma unroll
    for (int i = 0; i < Together; ++i)
      if (inside >> i & 1) packs[i] = load_vector<kPack>(&chunk[at + i * step].at[0]);
#pragma unroll
    for (int i = 0; i < Together; ++i) {
      if (!(inside >> i & 1)) continue;
      float value[kPack];
      to_floats(value, packs[i]);
      change(value, at + i * step);
      store_vector(&chunk[at + i * step].at[0], vector_of<T>(value));
    }
  }
}

// When a warp that multiplies `count` times for a tile copies and transforms the next one: before
// its products, or between and after them, while other warps of its quarter of the multiprocessor
// do the other thing.
struct Turns {
  int copies, transforms;

  __device__ __forceinline__ Turns(int count, bool before)
      : copies(before || count < 2 ? 0 : 1), transforms(before ? 0 : count) {}
};

// The constants of channels in shared memory, a scale and a shift for each.
struct Constants {
  float *scale, *shift;

  // of(c) folds the constants of channel c, from c0 on; zero beyond the last one.
  template <class Of>
  __device__ __forceinline__ void stage(int count, int c0, int channels, const DenseThread& me,
                                        Of of) const {
    for (int i = me.index; i < count; i += me.count) {
      const Folded folded = c0 + i < channels ? of(c0 + i) : Folded{0.f, 0.f};
      scale[i] = folded.scale;
      shift[i] = folded.shift;
    }
  }
  // Those of the thread's pack of a chunk that begins at channel c.
  __device__ __forceinline__ void load(float (&a)[kPack], float (&b)[kPack], int c,
                                       const DenseThread& me) const {
    load_floats(a, scale + c + me.index % kDensePacks * kPack);
    load_floats(b, shift + c + me.index % kDensePacks * kPack);
  }
};

// x becomes f(x); the constants of the chunk begin at `c`.
template <int Together, class T>
__device__ __forceinline__ void transform_operand(Pack<T>* chunk, const Planes& planes,
                                                  Inside inside, const OperandView<T>& in,
                                                  const Constants& constants, int c,
                                                  const DenseThread& me) {
  if (in.plain()) return;
  float a[kPack], b[kPack];
  constants.load(a, b, c, me);
  const bool relu = in.act == Activation::relu;
  change_chunk<Together>(chunk, planes, inside, me, [&](float(&value)[kPack], int) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float u = fmaf(a[k], value[k], b[k]);
      value[k] = relu ? positive_part(u) : u;
    }
  });
}

// G becomes dy = G + scale·y + shift; y lies in `raw` as G does in `chunk`.
template <int Together, class T>
__device__ __forceinline__ void transform_gradient(Pack<T>* chunk, const Pack<T>* raw,
                                                   const Planes& planes, Inside inside,
                                                   const Constants& constants, int c,
                                                   const DenseThread& me) {
  float a[kPack], b[kPack];
  constants.load(a, b, c, me);
  change_chunk<Together>(chunk, planes, inside, me, [&](float(&value)[kPack], int at) {
    float y[kPack];
    to_floats(y, load_vector<kPack>(&raw[at].at[0]));
#pragma unroll
    for (int k = 0; k < kPack; ++k) value[k] += fmaf(a[k], y[k], b[k]);
  });
}

// What a lane of a warp addresses of a stage: matrices 0 and 1 are the first pack of its two cells,
// 2 and 3 the second. In packs, from the stage's first one.
__device__ __forceinline__ int lane_of_cells(const DenseCut& cut, const DenseThread& me,
                                             int first_cell) {
  const int matrix = me.lane / 8;
  return matrix / 2 * cut.plane + dense_corner(cut, first_cell + matrix % 2) + me.lane % 8;
}

// sum[row] += a chunk · its weights, in steps of sixteen channels. load_weights(b, step, tap) loads
// the fragments of a step at a tap; `cells` is the shared address of lane_of_cells().
template <class T, int Tiles, class LoadWeights>
__device__ __forceinline__ void multiply_chunk(float (&sum)[kDenseRows][Tiles][4], uint32_t cells,
                                               int steps, const DenseCut& cut,
                                               LoadWeights load_weights) {
  const uint32_t row_bytes = cut.pitch * sizeof(Pack<T>);
#pragma unroll 1
  for (int step = 0; step < steps; ++step)
#pragma unroll 1
    for (int kw = 0; kw < 3; ++kw) {
      uint32_t b[3][Tiles][2];
#pragma unroll
      for (int kh = 0; kh < 3; ++kh) load_weights(b[kh], step, kh * 3 + kw);
      const uint32_t from = cells + (2 * step * cut.plane + kw) * sizeof(Pack<T>);
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

// The steps of the chunk of `channels` that begins at c.
__device__ __forceinline__ int steps_of_chunk(int channels, int c) {
  return dense_up(min(channels - c, kDenseChunk), kDenseDepth);
}

// Calls use(cell, row, pixel) for the pixels of a thread's results that the images have: those of
// sum[row][…][2 · cell …].
template <class Use>
__device__ __forceinline__ void for_results(const DenseCut& cut, const DensePlace& place,
                                            int first_cell, int g, Use use) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int cell = first_cell + i, strip = dense_quotient(cell, cut.by_columns),
              image = dense_quotient(strip, cut.by_strips);
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
