// Into how many tiles the work over pixels is cut: each tile leaves one row of partial sums, merged
// in fp64. The planner sizes the scratch with these functions and the launchers cut by them, so
// results depend on the shape and on the limits of the device alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/operand.h"

namespace engine {

// What the cut of the work depends on of a GPU. The defaults are those of an H200: they serve plans
// that are made without a device.
struct DeviceLimits {
  int multiprocessors = 132;
  int shared_bytes = 228 << 10;  // of a multiprocessor
  int reserved_bytes = 1 << 10;  // of those, what the system takes for each block
  int l2_bytes = 50 << 20;

  bool operator==(const DeviceLimits&) const = default;
};

constexpr int kChannelsPerGroup = 64;  // channels that a thread block covers: 16 threads of four
constexpr int kMaxTiles = 1024;

// The most tiles of a sweep over (pixels, channels): about 2048 thread blocks, of at least 32
// pixels each.
inline int sweep_tiles(int64_t pixels, int channels) {
  const int64_t groups = (channels + kChannelsPerGroup - 1) / kChannelsPerGroup;
  const int64_t by_blocks = std::max<int64_t>(1, 2048 / groups),
                by_work = std::max<int64_t>(1, pixels / 32);
  return static_cast<int>(std::min<int64_t>({by_blocks, by_work, kMaxTiles}));
}

// The rows that the scratch of a step holds for (pixels, channels); no launcher leaves more.
inline int partial_rows(int64_t pixels, int channels) {
  return std::max(64, sweep_tiles(pixels, channels));
}

// The bytes of the barriers of a ring of stages in shared memory (kernels/ring.cuh): whether each
// is loaded, full, and empty.
constexpr int ring_bytes(int stages) {
  return 3 * 8 * stages;
}

// A row of partials is two sums and, for statistics, the shift: (channels,) each.
constexpr int kPartialsPerChannel = 3;

// ---------------------------------------------------------------- depthwise convolutions

// Their windows are square, kernel 3 or 5, and tuned for stride 1 or 2 and padding kernel / 2.

// The rows of the output that a row of stride × stride cells of the operand meets if the padding is
// kernel / 2.
constexpr int depthwise_reach(int kernel, int stride) {
  return (stride - 1 + kernel / 2) / stride + (kernel - 1 - kernel / 2) / stride + 1;
}

// Floats of a pixel in shared memory; a group has no more channels.
constexpr int kDepthwisePitch = 32;
constexpr int kDepthwiseThreads = 256;

// How a depthwise kernel cuts its work. Positions are a (height, units · unit) grid for each image:
// forward, the pixels of the output; backward, cells of stride × stride pixels of the operand. A
// block takes a group of channels and a tile: a run of items, strips of an image. It stages what
// `stack` items read in shared memory, band by band, and its threads compute units from there: some
// positions of a row, for the channels of the thread.
struct DepthwiseTiles {
  // Channels of a group; groups × tiles blocks of lanes × slots threads.
  int channels, groups, lanes, slots;
  int height, unit, units;          // rows of positions, positions of a unit, units of a row
  int rows, strips;                 // rows of a strip, strips of an image
  int span, bands;                  // units of a band, bands of an image
  int stack;                        // items staged together: one, unless they are whole images
  int staged_rows, staged_columns;  // of one item, with all that its positions reach
  int items, per_tile, tiles;

  int staged() const { return stack * staged_rows * staged_columns * kDepthwisePitch; }  // floats
  int threads() const { return lanes * slots; }
};

// The positions of a unit. Seven divides 112, 56, 28, 14 and 7.
constexpr int depthwise_unit(int stride) {
  return stride == 1 ? 7 : 4;
}

// The blocks of a multiprocessor that the kernels' registers and shared memory are cut for.
constexpr int depthwise_blocks(int kernel) {
  return kernel == 3 ? 3 : 2;
}

// Neighbouring positions are `step` pixels of what is staged apart, and each reaches `reach` of
// them.
inline DepthwiseTiles depthwise_tiles(int batch, int height, int width, int channels,
                                      int channels_per_thread, int kernel, int unit, int step,
                                      int reach, const DeviceLimits& limits) {
  constexpr int kStagedColumns = 28;  // of a band, roughly
  const auto up = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  const int blocks = depthwise_blocks(kernel);
  DepthwiseTiles t{};
  t.channels = up(up(channels, up(channels, kDepthwisePitch)), 4) * 4;
  t.groups = up(channels, t.channels);
  t.lanes = t.channels / channels_per_thread;
  t.slots = kDepthwiseThreads / t.lanes;

  t.height = height;
  t.unit = unit;
  t.units = up(width, unit);
  t.bands = up(t.units * unit * step, kStagedColumns);
  t.span = up(t.units, t.bands);
  t.bands = up(t.units, t.span);
  t.staged_columns = (t.span * unit - 1) * step + reach;
  const int floats = (limits.shared_bytes / blocks - limits.reserved_bytes) / 4 -
                     kernel * kernel * kDepthwisePitch;
  const int fitting = floats / (t.staged_columns * kDepthwisePitch);  // staged rows
  t.strips = up(height, std::max(1, (fitting - reach) / step + 1));
  t.rows = up(height, t.strips);
  t.strips = up(height, t.rows);
  t.staged_rows = (t.rows - 1) * step + reach;
  t.items = batch * t.strips;
  if (t.strips > 1 || t.bands > 1) {
    t.stack = 1;
  } else {  // as many images as give each thread some units
    const int enough = up(4 * t.slots, height * t.units);
    t.stack = std::clamp(fitting / t.staged_rows, 1, std::min(batch, enough));
  }

  // The tiles that take the fewest stages, one after the other, when every multiprocessor runs
  // `blocks` of them; leaving the sums of a tile takes about a quarter of a stage.
  const int most = partial_rows(int64_t{batch} * height * width, channels);
  int64_t least = INT64_MAX;
  for (int per_tile = t.stack; per_tile < t.items + t.stack; per_tile += t.stack) {
    const int tiles = up(t.items, per_tile);
    if (tiles > most) continue;
    const int64_t waves = up(int64_t{tiles} * t.groups, limits.multiprocessors * blocks);
    const int64_t time = waves * (4 * (per_tile / t.stack) * t.bands + 1);
    if (time > least) continue;
    least = time;
    t.per_tile = per_tile;
    t.tiles = tiles;
  }
  return t;
}

// The tiles of the forward, over an output (batch, height, width, channels).
inline DepthwiseTiles depthwise_forward_tiles(int batch, int height, int width, int channels,
                                              int channels_per_thread, const Window& window,
                                              const DeviceLimits& limits) {
  return depthwise_tiles(batch, height, width, channels, channels_per_thread, window.kernel_h,
                         depthwise_unit(window.stride), window.stride, window.kernel_h, limits);
}

// The tiles of the backward, over an operand (batch, height, width, channels).
inline DepthwiseTiles depthwise_backward_tiles(int batch, int height, int width, int channels,
                                               const Window& window, const DeviceLimits& limits) {
  const auto cells = [&](int pixels) { return (pixels + window.stride - 1) / window.stride; };
  return depthwise_tiles(batch, cells(height), cells(width), channels, 1, window.kernel_h,
                         depthwise_unit(window.stride), 1,
                         depthwise_reach(window.kernel_h, window.stride), limits);
}

// The floats of scratch for the weight gradient's partial sums: (tiles, K·K, C).
inline int64_t depthwise_weight_partials(int batch, int height, int width, int channels,
                                         const Window& window, const DeviceLimits& limits) {
  const int64_t tiles =
      depthwise_backward_tiles(batch, height, width, channels, window, limits).tiles;
  return tiles * window.kernel_h * window.kernel_h * channels;
}

}  // namespace engine
