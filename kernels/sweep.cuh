// A sweep over the pixels of NHWC memory: the grid is (channel groups, tiles of pixels), a block is (packs of V
// channels, rows of pixels). Every kernel here uses that block shape: threadIdx.x is a place in the channels,
// threadIdx.y a place in the pixels; sums run over threadIdx.y.
#pragma once

#include <algorithm>

#include "kernels/pack.cuh"
#include "kernels/tiles.h"

namespace engine::kernels {

constexpr int kSweepThreads = 256;

struct Sweep {
  int pixels, groups, lanes, rows, tiles, per_tile;
  dim3 grid() const { return dim3(groups, tiles); }
  dim3 block() const { return dim3(lanes, rows); }
};

inline Sweep make_sweep(int64_t pixels, int channels, int channels_per_thread) {
  const int packs = (channels + channels_per_thread - 1) / channels_per_thread;
  Sweep s{};
  s.pixels = static_cast<int>(pixels);
  s.groups = (channels + kChannelsPerGroup - 1) / kChannelsPerGroup;
  s.lanes = (packs + s.groups - 1) / s.groups;
  s.rows = kSweepThreads / s.lanes;
  const int tiles = sweep_tiles(pixels, channels);
  s.per_tile = static_cast<int>((pixels + tiles - 1) / tiles);
  s.tiles = static_cast<int>((pixels + s.per_tile - 1) / s.per_tile);  // none is empty
  return s;
}

// This thread's first channel; it may lie beyond the last one.
template <int V>
__device__ __forceinline__ int first_channel() {
  return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * V;
}

// Calls use(pixel, load(pixel)) for this thread's pixels of the tile; several loads are in flight at a time.
template <int InFlight = 2, class Load, class Use>
__device__ __forceinline__ void for_pixels(const Sweep& sweep, Load load, Use use) {
  const int step = blockDim.y, begin = blockIdx.y * sweep.per_tile;
  const int end = min(sweep.pixels, begin + sweep.per_tile);
  for (int p = begin + static_cast<int>(threadIdx.y); p < end; p += InFlight * step) {
    decltype(load(p)) loaded[InFlight];
#pragma unroll
    for (int i = 0; i < InFlight; ++i)
      if (p + i * step < end) loaded[i] = load(p + i * step);
#pragma unroll
    for (int i = 0; i < InFlight; ++i)
      if (p + i * step < end) use(p + i * step, loaded[i]);
  }
}

// The sum of `value` over threadIdx.y, for each k and threadIdx.x; valid in row 0. All threads of the block call it.
// `buffer` holds V floats per thread.
template <int V>
__device__ __forceinline__ void sum_rows(float (&value)[V], float* buffer) {
  const int threads = blockDim.x * blockDim.y, me = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();  // the buffer may still be read
#pragma unroll
  for (int k = 0; k < V; ++k) buffer[k * threads + me] = value[k];
  for (int rows = blockDim.y; rows > 1;) {
    const int half = (rows + 1) / 2;
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < rows - half) {
#pragma unroll
      for (int k = 0; k < V; ++k)
        buffer[k * threads + me] += buffer[k * threads + me + half * static_cast<int>(blockDim.x)];
    }
    rows = half;
  }
  if (threadIdx.y == 0) {
#pragma unroll
    for (int k = 0; k < V; ++k) value[k] = buffer[k * threads + me];
  }
}

}  // namespace engine::kernels
