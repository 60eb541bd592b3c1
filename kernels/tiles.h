// Into how many tiles a sweep over pixels is cut: each tile leaves one row of partial sums, merged in fp64.
// The planner sizes the scratch with it and the launchers use the same number, so results do not depend on
// anything but the shape.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace engine {

constexpr int kChannelsPerGroup = 64;  // channels that one thread block covers: 8 threads of 8
constexpr int kMaxTiles = 1024;

// Tiles of a sweep over (pixels, channels): about 2048 thread blocks, at least 32 pixels each. On the CPU a tile is
// the share of a thread, so there are never fewer than the 64 rows that many threads may want.
inline int sweep_tiles(int64_t pixels, int channels) {
  const int64_t groups = (channels + kChannelsPerGroup - 1) / kChannelsPerGroup;
  const int64_t by_blocks = std::max<int64_t>(1, 2048 / groups),
                by_work = std::max<int64_t>(1, pixels / 32);
  return static_cast<int>(std::min<int64_t>({by_blocks, by_work, kMaxTiles}));
}

// Rows reserved in the scratch of a step for a sweep over (pixels, channels).
inline int partial_rows(int64_t pixels, int channels) {
  return std::max(64, sweep_tiles(pixels, channels));
}

// A partial row: first, second and (for statistics) shift, each (channels,).
constexpr int kPartialsPerChannel = 3;

// ---------------------------------------------------------------- depthwise convolutions

struct DepthwiseShape {
  int kernel, stride, padding;  // kernel 3 or 5; tuned for stride 1 or 2 and padding kernel / 2
};

// How a depthwise kernel cuts (N, H, W, C): a thread keeps its channels and marches down columns of a strip of rows;
// an item is a strip of one image, a tile a run of items. H and W are the output's in forward, the operand's in
// backward.
struct DepthwiseTiles {
  int width;         // columns of a thread's march
  int columns;       // marches side by side in an image
  int rows, strips;  // rows of a strip, strips of an image
  int items, per_tile, tiles;
  int groups, lanes, slots;  // grid and block: groups × tiles blocks of lanes × slots threads
};

constexpr int kDepthwiseThreads = 128;
constexpr int kDepthwiseBlocks = 1024;  // about: 132 multiprocessors, three blocks each, some waves
constexpr int kDepthwiseMinRows = 14;   // lower strips would load too many rows twice

// row_step: rows of a strip are a multiple of it.
inline DepthwiseTiles depthwise_tiles(int batch, int height, int width, int channels,
                                      int channels_per_thread, int march_width, int row_step) {
  const auto up = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  DepthwiseTiles t{};
  t.width = march_width;
  t.columns = up(width, march_width);
  const int packs = up(channels, channels_per_thread);
  t.groups = up(channels, kChannelsPerGroup);
  // Groups of a multiple of 16 threads read whole 32-byte sectors.
  t.lanes = t.groups == 1 ? packs
                          : std::min(up(up(packs, t.groups), 16) * 16,
                                     kChannelsPerGroup / channels_per_thread);
  t.groups = up(packs, t.lanes);
  t.slots = std::max(1, kDepthwiseThreads / t.lanes);

  const int wanted = std::max(1, kDepthwiseBlocks / t.groups);
  t.strips = std::clamp(up(wanted, batch), 1, up(height, kDepthwiseMinRows));
  t.rows = up(up(height, t.strips), row_step) * row_step;
  t.strips = up(height, t.rows);
  t.items = batch * t.strips;

  // Marches of a tile: a multiple of the slots, as near to the wanted number of blocks as the partial rows allow.
  const int grain = t.slots / std::gcd(t.slots, t.columns);
  const int64_t pixels = int64_t{batch} * height * width;
  t.per_tile = std::max(1, (t.items + wanted * grain / 2) / (wanted * grain)) * grain;
  while (up(t.items, t.per_tile) > partial_rows(pixels, channels)) t.per_tile += grain;
  t.tiles = up(t.items, t.per_tile);
  return t;
}

// Of the backward, over an operand (batch, height, width, channels).
inline DepthwiseTiles depthwise_backward_tiles(int batch, int height, int width, int channels,
                                               const DepthwiseShape& shape) {
  return depthwise_tiles(batch, height, width, channels, 1, shape.stride == 1 ? 7 : 14,
                         shape.stride);
}

// Floats of scratch for the weight gradient's partial sums: (tiles, K·K, C).
inline int64_t depthwise_weight_partials(int batch, int height, int width, int channels,
                                         const DepthwiseShape& shape) {
  const int64_t tiles = depthwise_backward_tiles(batch, height, width, channels, shape).tiles;
  return tiles * shape.kernel * shape.kernel * channels;
}

}  // namespace engine
