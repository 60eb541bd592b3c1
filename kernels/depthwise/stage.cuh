// What both directions of a depthwise convolution share: a block stages what its threads will read
// many times in shared memory, transformed once, as floats, with zeros around the image; then its
// threads compute from there.
#pragma once

#include <algorithm>

#include "kernels/transform.cuh"

namespace engine::kernels {

template <int Stride>
constexpr int kUnit = depthwise_unit(Stride);
constexpr int kStagedVector = 4;  // channels that a thread stages at a time

// One step of a block: `rows` rows of positions of `images` whole images or of a strip of one, and
// some units of each.
struct Stage {
  int n, images, row, rows, unit, units;
};

// Calls use(stage) for the stages of the block's tile.
template <class Use>
__device__ __forceinline__ void for_stages(const DepthwiseTiles& t, Use use) {
  const int first = blockIdx.y * t.per_tile, last = min(t.items, first + t.per_tile);
  for (int item = first; item < last; item += t.stack) {
    const int row = item % t.strips * t.rows;
    for (int unit = 0; unit < t.units; unit += t.span)
      use(Stage{item / t.strips, min(t.stack, last - item), row, min(t.rows, t.height - row), unit,
                min(t.span, t.units - unit)});
  }
}

// Counts through pairs (outer, inner), inner < size, by a fixed step and without divisions.
class Counter {
 public:
  __device__ __forceinline__ Counter(int start, int step, int size)
      : outer(start / size),
        inner(start % size),
        size_(size),
        outer_step_(step / size),
        inner_step_(step % size) {}
  __device__ __forceinline__ void next() {
    outer += outer_step_;
    inner += inner_step_;
    if (inner >= size_) inner -= size_, ++outer;
  }
  int outer, inner;

 private:
  int size_, outer_step_, inner_step_;
};

// Calls use(image of the stage, row, unit) for this thread's units of a stage.
template <class Use>
__device__ __forceinline__ void for_units(const Stage& stage, Use use) {
#pragma unroll 1
  for (Counter at(threadIdx.y, blockDim.y, stage.units); at.outer < stage.images * stage.rows;
       at.next()) {
    const int image = stage.images == 1 ? 0 : at.outer / stage.rows;
    use(image, at.outer - image * stage.rows, at.inner);
  }
}

// A thread's place while the block stages: a vector of channels and every `pixels`-th pixel.
struct StagingThread {
  int vector, pixel, pixels;

  __device__ __forceinline__ explicit StagingThread(const DepthwiseTiles& t) {
    const int vectors = t.channels / kStagedVector, me = threadIdx.y * blockDim.x + threadIdx.x;
    vector = me % vectors * kStagedVector;
    pixel = me / vectors;
    pixels = static_cast<int>(blockDim.x * blockDim.y) / vectors;
  }
  // Its first channel; may lie beyond the last one.
  __device__ __forceinline__ int channel(const DepthwiseTiles& t) const {
    return static_cast<int>(blockIdx.x) * t.channels + vector;
  }

  // staged (rows, staged_columns, kDepthwisePitch) = value(load(pixel)) at rows [top, …) and
  // columns [left, …) of image n of `in`; zero outside it and beyond its channels.
  template <class View, class Load, class Value>
  __device__ __forceinline__ void stage(float* staged, const DepthwiseTiles& t, int rows,
                                        const View& in, int n, int top, int left, Load load,
                                        Value value) const {
    constexpr int kInFlight = 2;
    const bool present = channel(t) < in.channels;
    Counter at(pixel, pixels, t.staged_columns);
#pragma unroll 1
    for (int place = pixel; place < rows * t.staged_columns; place += kInFlight * pixels) {
      decltype(load(0)) raw[kInFlight];
      bool inside[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i, at.next()) {
        const int y = top + at.outer, x = left + at.inner;
        inside[i] = present && at.outer < rows && y >= 0 && y < in.height && x >= 0 && x < in.width;
        if (inside[i]) raw[i] = load((n * in.height + y) * in.width + x);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (place + i * pixels >= rows * t.staged_columns) break;
        Vector<float, kStagedVector> stored = {};
        if (inside[i]) value(stored.at, raw[i]);
        store_vector(staged + (place + i * pixels) * kDepthwisePitch + vector, stored);
      }
    }
  }
};

// shared (Taps, kDepthwisePitch) = weight (C, Taps), as floats.
template <int Taps, class T>
__device__ __forceinline__ void stage_weights(float* shared, const T* __restrict__ weight,
                                              const DepthwiseTiles& t, int channels) {
  const int first = blockIdx.x * t.channels, count = min(t.channels, channels - first) * Taps;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < count; i += blockDim.x * blockDim.y)
    shared[i % Taps * kDepthwisePitch + i / Taps] = to_float(weight[int64_t{first} * Taps + i]);
}

// Launches a kernel with the dynamic shared memory for the weights and a stage; at the end of a
// tile the same memory holds `sums` floats for each thread.
template <class Kernel, class... Arguments>
void launch_depthwise(Kernel kernel, const DepthwiseTiles& t, int taps, int sums,
                      cudaStream_t stream, const Arguments&... arguments) {
  const int floats = std::max(taps * kDepthwisePitch + t.staged(), sums * t.threads());
  const int bytes = floats * static_cast<int>(sizeof(float));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<dim3(t.groups, t.tiles), dim3(t.lanes, t.slots), bytes, stream>>>(arguments...);
}

}  // namespace engine::kernels
