// A sweep over the pixels of NHWC memory: the grid is (channel groups, tiles of pixels), a block is
// (vectors of V channels, rows of pixels). Every kernel over activations has that shape:
// threadIdx.x is a place in the channels, threadIdx.y a place in the pixels, and sums run over
// threadIdx.y.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/device.cuh"
#include "kernels/tiles.h"
#include "kernels/vector.cuh"

namespace engine::kernels {

constexpr int kSweepThreads = 256;
// Channels of a thread. Four keep the norm and the sums of a thread in 64 registers, so four blocks
// share a multiprocessor; wider vectors cost more threads than they save loads.
constexpr int kSweepVector = 4;

struct Sweep {
  int pixels, groups, lanes, rows, tiles, per_tile;
  dim3 grid() const { return dim3(groups, tiles); }
  dim3 block() const { return dim3(lanes, rows); }
};

inline Sweep make_sweep(int64_t pixels, int channels, int channels_per_thread) {
  constexpr int kAligned = 16;  // channels of a 32-byte sector of halves: groups do not share one
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  Sweep s{};
  s.pixels = static_cast<int>(pixels);
  s.groups = up(channels, kChannelsPerGroup);
  const int share = s.groups == 1 ? channels : up(up(channels, s.groups), kAligned) * kAligned;
  s.lanes = up(share, channels_per_thread);
  s.rows = kSweepThreads / s.lanes;
  const int by_blocks = std::max(1, blocks_of_device() / s.groups),
            by_work = up(pixels, 4 * s.rows);
  s.per_tile = up(pixels, std::min({by_blocks, by_work, partial_rows(pixels, channels)}));
  s.tiles = up(pixels, s.per_tile);  // none is empty
  return s;
}

// This thread's first channel; it may lie beyond the last one.
template <int V>
__device__ __forceinline__ int first_channel() {
  return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * V;
}

// The pixels in flight of a sweep that loads two vectors for each: 64 bytes a thread.
template <class T>
constexpr int kPairsInFlight = 8 / static_cast<int>(sizeof(T));

// Calls use(pixel, load(pixel)) for this thread's pixels of the tile; several loads are in flight
// at a time.
template <int InFlight = 4, class Load, class Use>
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

// Sums `value` over threadIdx.y, for each k and threadIdx.x; row 0 gets the sums. All threads of
// the block call it. `buffer` holds V floats per thread.
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
