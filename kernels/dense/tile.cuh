// A tile of pixels in shared memory, with a border of one position, as the operand of products with
// the nine taps of a 3 × 3 window: see kernels/dense_tiles.h for the line that it is, and
// kernels/warpgroup.cuh for the products.
//
// A chunk of 32 channels lies in four planes, each of one pack of eight channels for every
// position. A thread has one pack of every so many positions: it reads it from memory into
// registers, while the chunk before is multiplied, and leaves what it makes of it in the planes.
// At borders and outside of the images lie zeros.
#pragma once

#include "kernels/dense_tiles.h"
#include "kernels/device.cuh"
#include "kernels/gemm/source.cuh"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {

// A thread of a block that is (x, y) for the merge of its sums, and linear for all else.
struct DenseThread {
  int index = threadIdx.y * blockDim.x + threadIdx.x, count = blockDim.x * blockDim.y;
  int warp = index / kWarp, lane = index % kWarp;
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  // Of a result: rows g and g + 8 of the warp's sixteen, columns 2t and 2t + 1 of each eight.
  int g = lane / 4, t = lane % 4;
  // Of a staged chunk: a pack of every `step`-th position, from `at` on.
  int pack = index % kDensePacks, at = index / kDensePacks, step = count / kDensePacks;
};

// Where the positions of a tile lie, in shared memory: dense_offset() of each.
struct DenseOffsets {
  int* at;

  __device__ __forceinline__ void stage(const DenseCut& cut, const DenseThread& me) const {
    for (int i = me.index; i < cut.plane; i += me.count) at[i] = dense_offset(cut, i);
  }
  // The pixel of the batch at a position of a tile, or −1.
  __device__ __forceinline__ int pixel(const DensePlace& place, int i, int end) const {
    const int offset = at[i];
    return offset != kDenseBorder && i >= place.begin && i < end ? place.pixel + offset : -1;
  }
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
  // Those of a pack that begins at channel c.
  __device__ __forceinline__ void load(float (&a)[kPack], float (&b)[kPack], int c) const {
    load_floats(a, scale + c);
    load_floats(b, shift + c);
  }
};

// x of a chunk as f(x), through a thread's registers: at most Most positions.
template <class T, int Most>
struct OperandChunk {
  Pack<T> packs[Most];
  uint32_t inside;  // which of them are of an image

  // Asks for channels c … c + 7 of the thread's positions.
  __device__ __forceinline__ void read(const OperandView<T>& in, const DenseCut& cut,
                                       const DenseOffsets& offsets, const DensePlace& place, int c,
                                       const DenseThread& me) {
    inside = 0;
    const T* const x = in.x + c;
    const int staged = cut.staged();
#pragma unroll
    for (int i = 0; i < Most; ++i) {
      const int at = me.at + i * me.step;
      if (at >= staged) break;
      const int pixel = offsets.pixel(place, at, place.end);
      if (pixel < 0 || c >= in.channels) continue;
      packs[i] = load_vector<kPack>(x + int64_t{pixel} * in.pitch);
      inside |= 1u << i;
    }
  }

  // Leaves f of them in the thread's plane; the constants are those of channel c.
  __device__ __forceinline__ void leave(Pack<T>* plane, const OperandView<T>& in,
                                        const DenseCut& cut, const Constants& constants, int c,
                                        const DenseThread& me) const {
    float a[kPack], b[kPack];
    constants.load(a, b, c);
    const bool plain = in.plain(), relu = in.act == Activation::relu;
    const int staged = cut.staged();
#pragma unroll
    for (int i = 0; i < Most; ++i) {
      const int at = me.at + i * me.step;
      if (at >= staged) break;
      Pack<T> f = packs[i];
      if (!(inside >> i & 1)) {
        f = Pack<T>{};
      } else if (!plain) {
        float value[kPack];
        to_floats(value, f);
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const float u = fmaf(a[k], value[k], b[k]);
          value[k] = relu ? positive_part(u) : u;
        }
        f = vector_of<T>(value);
      }
      store_vector(&plane[at].at[0], f);
    }
  }
};

// Calls use(half, pixel) for rows g and g + 8 of a warp's sixteen of a product whose first position
// is `from`, where there is a pixel.
template <class Use>
__device__ __forceinline__ void for_results(const DenseOffsets& offsets, const DensePlace& place,
                                            int from, const DenseThread& me, Use use) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = from + me.warp % 4 * 16 + half * 8 + me.g;
    const int pixel = offsets.pixel(place, at, place.last);
    if (pixel >= 0) use(half, int64_t{pixel});
  }
}

}  // namespace engine::kernels
