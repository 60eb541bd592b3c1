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
#include "kernels/packs.cuh"
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
  // Of a staged chunk: one pack of every so many positions, from `at` on.
  int pack = index % kDensePacks, at = index / kDensePacks;
};

// Where the positions of a tile lie, in shared memory: dense_offset() of each.
struct DenseOffsets {
  int* at;

  __device__ __forceinline__ void stage(const DenseCut& cut, const DenseThread& me) const {
    for (int i = me.index; i < kDenseMostStaged; i += me.count) at[i] = dense_offset(cut, i);
  }
  // The pixel of the batch at position i of a tile, if it lies before `end`, or a negative number,
  // as which kDenseBorder comes out by itself.
  __device__ __forceinline__ int pixel(const DensePlace& place, int i, int end) const {
    const int pixel = place.pixel + at[i];
    return i >= place.begin && i < end ? pixel : -1;
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

template <class T>
__device__ __forceinline__ void store_or_zero(Pack<T>* to, const Pack<T>& pack, bool wanted) {
  uint4 bits = *reinterpret_cast<const uint4*>(&pack);
  if (!wanted) bits = uint4{};
  *reinterpret_cast<uint4*>(to) = bits;
}

// The pack of the larger of each value and 0; NaN stays. The conversion does it.
template <class T>
__device__ __forceinline__ Pack<T> rectified(const float (&value)[kPack]) {
  Pack<T> pack;
#pragma unroll
  for (int k = 0; k < kPack; k += 2) {
    uint32_t& pair = *reinterpret_cast<uint32_t*>(&pack.at[k]);
    if constexpr (std::is_same_v<T, __half>)
      asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(value[k + 1]), "f"(value[k]));
    else
      asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(value[k + 1]), "f"(value[k]));
  }
  return pack;
}

// Calls use(f), where f makes a pack of the operand from a pack of x; c is the pack's channel among
// the constants.
template <class T, class Use>
__device__ __forceinline__ void visit_operand(const OperandView<T>& in, const Constants& constants,
                                              int c, Use use) {
  if (in.plain()) return use([](const Pack<T>& x) { return x; });
  float a[kPack], b[kPack];
  constants.load(a, b, c);
  const auto change = [&](const Pack<T>& x, auto round) {
    float value[kPack];
    to_floats(value, x);
#pragma unroll
    for (int k = 0; k < kPack; ++k) value[k] = fmaf(a[k], value[k], b[k]);
    return round(value);
  };
  if (in.act == Activation::relu)
    use([&](const Pack<T>& x) {
      return change(x, [](const float(&value)[kPack]) { return rectified<T>(value); });
    });
  else
    use([&](const Pack<T>& x) {
      return change(x, [](const float(&value)[kPack]) { return vector_of<T>(value); });
    });
}

// A chunk of 32 channels in the registers of a block's threads, on its way to shared memory: the
// positions that a thread has, as many together as have no branch between them.
template <class T, int Threads>
struct DenseChunk {
  static constexpr int kStep = Threads / kDensePacks;
  static constexpr int kMost = dense_up(kDenseMostStaged, kStep), kTogether = dense_up(kMost, 2);

  Pack<T> packs[kMost];
  uint32_t inside = 0;  // which of them are pixels

  // Asks for channels c … c + 7 of the thread's positions of x (pixels, pitch); `present` if there
  // are such channels.
  __device__ __forceinline__ void read(const T* x, int pitch, bool present, const DenseCut& cut,
                                       const DenseOffsets& offsets, const DensePlace& place,
                                       const DenseThread& me) {
    inside = 0;
#pragma unroll
    for (int first = 0; first < kMost; first += kTogether) {
      if (first * kStep >= cut.staged()) break;
#pragma unroll
      for (int i = first; i < kMost && i < first + kTogether; ++i) {
        const int pixel = offsets.pixel(place, me.at + i * kStep, place.end);
        const bool wanted = pixel >= 0 && present;
        packs[i] = load_if(wanted, x + int64_t{pixel} * pitch);
        inside |= uint32_t{wanted} << i;
      }
    }
  }

  // Leaves change(pack) of the pixels in the thread's plane, and zeros at the other positions.
  template <class Change>
  __device__ __forceinline__ void leave(Pack<T>* plane, const DenseCut& cut, const DenseThread& me,
                                        Change change) const {
#pragma unroll
    for (int first = 0; first < kMost; first += kTogether) {
      if (first * kStep >= cut.staged()) break;
#pragma unroll
      for (int i = first; i < kMost && i < first + kTogether; ++i) {
        const int at = me.at + i * kStep;
        if (at < cut.plane) store_or_zero(plane + at, change(packs[i]), inside >> i & 1);
      }
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
