// The tiles of the banded depthwise kernels (kernels/depthwise/banded.cuh says what they are),
// which tile takes which layer, how the work is cut into blocks, and the scratch that takes. No
// CUDA: the planner uses it, so that a plan is made without a device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/tiles.h"

namespace engine {

constexpr int kBandedQuad = 4;  // channels of a warp
constexpr int kBandedRows = 7;  // rows of a warp's column; divides 112, 56, 28, 14 and 7

// A tile is `images` images × `row_blocks` blocks of seven rows × `pairs` pairs of pixels × `quads`
// quads of channels. A row of the tables below names the layers it serves and the tile for them.
struct BandedTile {
  int kernel, stride;
  Activation act;  // of the operand
  int side;        // serves images of at most so many pixels a side
  int columns;     // pairs of one image that a warp takes: 16, 8 or 4
  int images, row_blocks, pairs, quads;
  int blocks;  // of a multiprocessor: what registers and shared memory are cut for

  constexpr int channels() const { return quads * kBandedQuad; }
  constexpr int rows() const { return row_blocks * kBandedRows; }
  // The tile holds whole images, which need no halo but zeros.
  constexpr bool whole() const { return columns < 16; }
};

constexpr int kAnySide = 1 << 20;

// Positions are pixels of the output. Thirty-two channels: the L2 takes one request for 64 bytes as
// fast as one for 32.
inline constexpr BandedTile kBandedForward[] = {
    {3, 1, Activation::silu, 7, 4, 4, 1, 4, 4, 6},
    {3, 1, Activation::silu, 14, 8, 1, 2, 7, 4, 6},
    {3, 1, Activation::silu, kAnySide, 16, 1, 2, 14, 8, 2},
    {3, 1, Activation::none, kAnySide, 16, 1, 2, 14, 8, 2},
    {5, 1, Activation::silu, 7, 4, 4, 1, 4, 4, 5},
    {5, 1, Activation::silu, 14, 8, 1, 2, 7, 4, 6},
    {5, 1, Activation::silu, kAnySide, 16, 1, 2, 14, 4, 3},
    {3, 2, Activation::silu, 7, 4, 4, 1, 4, 4, 3},
    {3, 2, Activation::silu, 14, 8, 1, 2, 7, 4, 3},
    {3, 2, Activation::silu, kAnySide, 16, 1, 1, 14, 4, 3},
    {5, 2, Activation::silu, 7, 4, 4, 1, 4, 4, 2},
    {5, 2, Activation::silu, 14, 8, 1, 2, 7, 4, 2},
    {5, 2, Activation::silu, kAnySide, 16, 1, 1, 14, 4, 2},
};

// Positions are pixels of the operand. Of stride 2 the two blocks of rows are the even and the odd
// rows of a tile.
inline constexpr BandedTile kBandedBackward[] = {
    {3, 1, Activation::silu, 7, 4, 4, 1, 4, 4, 4},
    {3, 1, Activation::silu, 14, 8, 1, 2, 7, 4, 4},
    {3, 1, Activation::silu, kAnySide, 16, 1, 2, 14, 4, 2},
    {3, 1, Activation::none, kAnySide, 16, 1, 2, 14, 4, 2},
    {5, 1, Activation::silu, 7, 4, 8, 1, 4, 4, 2},
    {5, 1, Activation::silu, 14, 8, 1, 2, 7, 4, 4},
    {5, 1, Activation::silu, kAnySide, 16, 1, 2, 14, 4, 2},
    {3, 2, Activation::silu, 14, 8, 2, 2, 7, 4, 3},
    {3, 2, Activation::silu, kAnySide, 16, 1, 2, 14, 4, 3},
    {5, 2, Activation::silu, 14, 8, 2, 2, 7, 4, 2},
    {5, 2, Activation::silu, kAnySide, 16, 1, 2, 14, 4, 2},
};

// The row of `table` for a layer whose positions are (height, width) pixels, or −1.
constexpr int banded_row(std::span<const BandedTile> table, const Window& window, Activation act,
                         int height, int width) {
  if (window.kernel_h != window.kernel_w || window.padding != window.kernel_h / 2) return -1;
  for (size_t i = 0; i < table.size(); ++i) {
    const BandedTile& t = table[i];
    if (t.kernel == window.kernel_h && t.stride == window.stride && t.act == act &&
        std::max(height, width) <= t.side)
      return static_cast<int>(i);
  }
  return -1;
}

// The tile of a layer, or null: forward, by its output; backward, by its operand.
constexpr const BandedTile* banded_forward_tile(const Window& window, Activation act, int height,
                                                int width) {
  const int row = banded_row(kBandedForward, window, act, height, width);
  return row < 0 ? nullptr : &kBandedForward[row];
}
constexpr const BandedTile* banded_backward_tile(const Window& window, Activation act, int height,
                                                 int width) {
  const int row = banded_row(kBandedBackward, window, act, height, width);
  return row < 0 ? nullptr : &kBandedBackward[row];
}

// The blocks of a launch: a block keeps its channels and its place in the image, and walks through
// every `splits`-th of the batch's stacks of images.
struct BandedCut {
  int groups, tiles_x, tiles_y, splits;
  constexpr int rows() const { return tiles_x * tiles_y * splits; }  // of partial sums
};

// The cut that takes the fewest tiles, one after the other, with every multiprocessor full; what a
// block does once (weights, partial sums) counts as half a tile.
inline BandedCut banded_cut(const BandedTile& tile, int batch, int height, int width, int channels,
                            const DeviceLimits& limits) {
  const auto up = [](int a, int b) { return (a + b - 1) / b; };
  BandedCut cut{up(channels, tile.channels()), up(width, 2 * tile.pairs), up(height, tile.rows()),
                1};
  const int stacks = up(batch, tile.images), places = cut.tiles_x * cut.tiles_y;
  const int64_t resident = int64_t{limits.multiprocessors} * tile.blocks;
  int64_t least = INT64_MAX;
  for (int splits = 1; splits <= stacks && (splits == 1 || places * splits <= kMaxTiles);
       ++splits) {
    const int64_t blocks = int64_t{cut.groups} * places * splits;
    const int64_t time = (blocks + resident - 1) / resident * (2 * up(stacks, splits) + 1);
    if (time >= least) continue;
    least = time;
    cut.splits = splits;
  }
  return cut;
}

// A row of partial sums, (…, C): forward, two sums, their shift and their count; backward, those of
// the weight's gradient, Σt and Σt·xhat.
constexpr int kBandedStatistics = 4;
constexpr int banded_sums(int kernel) {
  return kernel * kernel + 2;
}

// The floats of scratch for the partial sums of a launch, `sums` for each channel and row.
inline int64_t banded_partials(const BandedTile& tile, int sums, int batch, int height, int width,
                               int channels, const DeviceLimits& limits) {
  return int64_t{banded_cut(tile, batch, height, width, channels, limits).rows()} * sums * channels;
}

}  // namespace engine
