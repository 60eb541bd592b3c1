// Into how many tiles a sweep over pixels is cut: each tile leaves one row of partial sums, merged in fp64.
// The planner sizes the scratch with it and the launchers use the same number, so results do not depend on
// anything but the shape.
#pragma once

#include <algorithm>
#include <cstdint>

namespace engine {

constexpr int kChannelsPerGroup = 64;  // channels that one thread block covers: 8 threads of 8
constexpr int kMaxTiles = 1024;

// Tiles of a sweep over (pixels, channels): about 2048 thread blocks, at least 32 pixels each. On the CPU a tile is
// the share of a thread, so there are never fewer than the 64 rows that many threads may want.
inline int sweep_tiles(int64_t pixels, int channels) {
  const int64_t groups = (channels + kChannelsPerGroup - 1) / kChannelsPerGroup;
  const int64_t by_blocks = std::max<int64_t>(1, 2048 / groups), by_work = std::max<int64_t>(1, pixels / 32);
  return static_cast<int>(std::min<int64_t>({by_blocks, by_work, kMaxTiles}));
}

// Rows reserved in the scratch of a step for a sweep over (pixels, channels).
inline int partial_rows(int64_t pixels, int channels) { return std::max(64, sweep_tiles(pixels, channels)); }

struct DepthwiseShape {
  int kernel, stride, padding;  // kernel 3 or 5, stride 1 or 2
};

// Floats of scratch for the weight gradient of a depthwise convolution whose operand is (batch, height, width,
// channels): one row of kernel² per tile and channel.
inline int64_t depthwise_weight_partials(int batch, int height, int width, int channels, DepthwiseShape shape) {
  const int64_t pixels = int64_t{batch} * height * width;
  return int64_t{sweep_tiles(pixels, channels)} * channels * shape.kernel * shape.kernel;
}

// A partial row: first, second and (for statistics) shift, each (channels,).
constexpr int kPartialsPerChannel = 3;

}  // namespace engine
