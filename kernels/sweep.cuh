// A sweep over the pixels of NHWC memory: the grid is (channel groups, tiles of pixels), a block is
// (vectors of V channels, rows of pixels). Every kernel over activations has that shape:
// threadIdx.x is a place in the channels, threadIdx.y a place in the pixels, and sums run over
// threadIdx.y. All blocks run at once and have equally much to do.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/device.cuh"
#include "kernels/tiles.h"
#include "kernels/vector.cuh"

namespace engine::kernels {

constexpr int kSweepThreads = 256;
// Channels of a thread where memory allows it: one access of 16 bytes.
template <class T>
constexpr int kSweepVector = kFullVector<T>;
// The most channels of a block. A wide one reads long runs of memory; where sums are taken, narrow
// ones share the merge among more blocks.
constexpr int kWideGroup = 256, kSummedGroup = 96;

struct Sweep {
  int pixels, groups, lanes, rows, tiles, per_tile;
  dim3 grid() const { return dim3(groups, tiles); }
  dim3 block() const { return dim3(lanes, rows); }
};

// What of a kernel decides how it sweeps.
struct SweepKernel {
  int in_flight;  // pixels that a thread loads at a time
  int group;      // the most channels of a block
  int blocks;     // of a multiprocessor
};

// `vector` is the channels of a thread.
inline Sweep make_sweep(int64_t pixels, int channels, int vector, const SweepKernel& kernel) {
  constexpr int kAligned = 16;  // channels of a 32-byte sector of halves: groups do not share one
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  const int group = std::min(kernel.group, kSweepThreads / 2 * vector);
  Sweep s{};
  s.pixels = static_cast<int>(pixels);
  s.groups = channels <= group ? 1 : up(channels, group / 64 * 64);
  const int share = s.groups == 1 ? channels : up(up(channels, s.groups), kAligned) * kAligned;
  s.lanes = up(share, vector);
  s.groups = up(channels, s.lanes * vector);
  s.rows = kSweepThreads / s.lanes;
  const int at_once = device_limits().multiprocessors * kernel.blocks;
  const int by_blocks = std::max(1, at_once / s.groups),
            by_work = up(pixels, kernel.in_flight * s.rows);
  s.per_tile = up(pixels, std::min({by_blocks, by_work, partial_rows(pixels, channels)}));
  s.tiles = up(pixels, s.per_tile);  // none is empty
  return s;
}

// This thread's first channel; it may lie beyond the last one.
template <int V>
__device__ __forceinline__ int first_channel() {
  return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * V;
}

// With use = prepare(), calls use(pixel, load(pixel)) for this thread's pixels of the tile. Several
// loads are under way at a time; the first of them leave before what prepare() loads. `Rolls`: each
// of the others as soon as its registers are used, instead of all together.
template <int InFlight, bool Rolls = false, class Load, class Prepare>
__device__ __forceinline__ void for_pixels(const Sweep& sweep, Load load, Prepare prepare) {
  const int step = blockDim.y, begin = blockIdx.y * sweep.per_tile;
  const int end = min(sweep.pixels, begin + sweep.per_tile);
  decltype(load(0)) loaded[InFlight];
  const auto load_one = [&](int p, int i) {
    if (p + i * step < end) loaded[i] = load(p + i * step);
  };
  const auto load_some = [&](int p) {
#pragma unroll
    for (int i = 0; i < InFlight; ++i) load_one(p, i);
  };
  int p = begin + static_cast<int>(threadIdx.y);
  load_some(p);
  const auto use = prepare();
  while (p < end) {
#pragma unroll
    for (int i = 0; i < InFlight; ++i) {
      if (p + i * step < end) use(p + i * step, loaded[i]);
      if constexpr (Rolls) load_one(p + InFlight * step, i);
    }
    p += InFlight * step;
    if constexpr (!Rolls) load_some(p);
  }
}

}  // namespace engine::kernels
