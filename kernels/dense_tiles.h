// How the kernels of dense 3 × 3 convolutions (kernels/dense) cut a batch into tiles, and the
// shared memory and the scratch that they take. No CUDA: the planner asks whether a layer fits, and
// the cut is tested without a device.
//
// What is staged of a tile lies in one line: its rows of pixels one after the other, with a row of
// border above and below, and one position of border between rows, which ends one row and begins
// the next one. So a tap of the window is an offset along the line, whatever the pixel, and any 64
// positions in succession are the rows of a matrix product. Its results at borders are not used.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kDenseTaps = 9;
constexpr int kDenseRows = 64;                // positions of a product
constexpr int kDenseChunk = 32;               // channels that are staged together
constexpr int kDenseDepth = 16;               // channels that a product takes in one step
constexpr int kDensePacks = kDenseChunk / 8;  // the same in packs of 16 bytes
constexpr int kDenseMostOuts = 64;
constexpr int kDenseMostStaged = 640;  // positions of a tile
constexpr int kDenseOffsetBytes = kDenseMostStaged * 4;

// What a cut depends on beside the shape.
struct DenseWork {
  int batch = 0, height = 0, width = 0;
  int planes = 0;          // packs of a staged position, over all that is staged at a time
  int fixed = 0;           // bytes of shared memory beside them
  int least = 0;           // bytes of it that are wanted in any case
  int depth = kDenseRows;  // positions of a product
  int ahead = 0;           // positions behind the last result that products reach
  int most_products = 1;   // of a tile
  int most_staged = kDenseMostStaged;  // positions of one
  int product_clocks = 1;              // of a multiprocessor for one of them
  int stage_clocks = 1;                // for 64 staged positions
  int first_clocks = 0;                // and for those of the first tile, which no product hides
  int most_units = 1;                  // rows of the partial sums
};

// A tile is `rows` rows of each of `images` images: all of an image, if there are several.
struct DenseCut {
  int batch, height, width;
  int rows, images;
  int down, tiles;  // tiles of an image; in all
  int per, units;   // tiles of a thread block, thread blocks
  int pitch;        // positions of a row with its border
  int products;     // of a tile, from the first pixel on
  int plane;        // positions that a plane has room for
  int shared;       // bytes

  // The position of a tile's first pixel. Its taps reach as far back, and as far ahead.
  ENGINE_HOST_DEVICE constexpr int first() const { return pitch + 1; }
  // The positions that pixels and their borders have.
  ENGINE_HOST_DEVICE constexpr int staged() const { return (images * (rows + 1) + 1) * pitch + 1; }
};

ENGINE_HOST_DEVICE constexpr int dense_up(int64_t n, int64_t each) {
  return static_cast<int>((n + each - 1) / each);
}

// ---------------------------------------------------------------- places

// Where a position of a tile lies, from the tile's first pixel on: pixels of the batch. No pixel
// lies at kDenseBorder, in no tile; those outside of the image are told by DensePlace.
constexpr int kDenseBorder = INT32_MIN;
ENGINE_HOST_DEVICE constexpr int dense_offset(const DenseCut& cut, int at) {
  const int row = (at - 1) / cut.pitch, column = (at - 1) - row * cut.pitch;
  if (at == 0 || at >= cut.staged() || column == cut.width) return kDenseBorder;
  const int image = cut.images > 1 ? row / (cut.rows + 1) : 0;
  const int y = row - image * (cut.rows + 1) - 1;
  if (cut.images > 1 && y < 0) return kDenseBorder;
  return (image * cut.height + y) * cut.width + column;
}

// A tile's first pixel, the positions of it [begin, end) that the image above and below has, and
// the last of those that have results.
struct DensePlace {
  int pixel, begin, end, last;
};
ENGINE_HOST_DEVICE constexpr DensePlace dense_place(const DenseCut& cut, int tile) {
  const int image = tile / cut.down * cut.images, y = tile % cut.down * cut.rows;
  const int left = cut.batch - image, images = cut.images < left ? cut.images : left;
  const int below = cut.height - y, rows = cut.rows < below ? cut.rows : below;
  const int results = 1 + (cut.images > 1 ? images * (cut.rows + 1) : rows + 1) * cut.pitch;
  return {(image * cut.height + y) * cut.width, y > 0 ? 0 : cut.first(),
          results + (below > rows ? cut.pitch : 0), results};
}

// The pixels of the images that the tiles before a tile have, and that those of a unit have.
ENGINE_HOST_DEVICE constexpr int dense_before(const DenseCut& cut, int tile) {
  const int group = tile / cut.down, images = group * cut.images;
  const int rows = (tile - group * cut.down) * cut.rows;
  return images < cut.batch ? (images * cut.height + rows) * cut.width
                            : cut.batch * cut.height * cut.width;
}
ENGINE_HOST_DEVICE constexpr int dense_count(const DenseCut& cut, int unit) {
  const int begin = unit * cut.per, end = begin + cut.per;
  return dense_before(cut, end < cut.tiles ? end : cut.tiles) - dense_before(cut, begin);
}

// ---------------------------------------------------------------- the cut

// The cut into tiles of rows × images.
inline DenseCut dense_tiling(const DenseWork& w, int rows, int images, const DeviceLimits& limits) {
  DenseCut c{};
  c.batch = w.batch, c.height = w.height, c.width = w.width;
  c.rows = rows, c.images = images;
  c.down = dense_up(w.height, rows);
  c.tiles = dense_up(w.batch, images) * c.down;
  c.per = dense_up(c.tiles, std::min(limits.multiprocessors, std::max(1, w.most_units)));
  c.units = dense_up(c.tiles, c.per);
  c.pitch = w.width + 1;
  c.products = dense_up((images * (rows + 1) - 1) * c.pitch + w.ahead, w.depth);
  // Two positions of four packs are eight banks.
  c.plane = dense_up(2 * c.first() + c.products * w.depth - 2, 8) * 8 + 2;
  c.shared = std::max(w.least, w.fixed + c.plane * w.planes * 16 + kDenseOffsetBytes);
  return c;
}

// The clocks of a block.
inline int64_t dense_time(const DenseWork& w, const DenseCut& c) {
  constexpr int kEachTile = 1000;
  return int64_t{c.staged()} * w.first_clocks / kDenseRows +
         int64_t{c.per} * (int64_t{c.products} * w.product_clocks +
                           int64_t{c.staged()} * w.stage_clocks / kDenseRows + kEachTile);
}

// The tiling that takes the least time; no units if none fits.
inline DenseCut dense_cut(const DenseWork& w, const DeviceLimits& limits) {
  constexpr int kSlack = 256;
  const int room = limits.shared_bytes - limits.reserved_bytes - kSlack;
  DenseCut best{};
  const auto consider = [&](int rows, int images) {
    const DenseCut c = dense_tiling(w, rows, images, limits);
    if (c.products > w.most_products || c.staged() > w.most_staged || c.shared > room) return false;
    if (best.units == 0 || dense_time(w, c) < dense_time(w, best)) best = c;
    return true;
  };
  for (int rows = 1; rows <= w.height && consider(rows, 1); ++rows) continue;
  for (int images = 2; images <= w.batch && consider(w.height, images); ++images) continue;
  return best;
}

// ---------------------------------------------------------------- forward

constexpr int kDenseForwardThreads = 256;

// The columns of a product that makes `outs` channels.
ENGINE_HOST_DEVICE constexpr int dense_columns(int outs) {
  return outs <= 32 ? 32 : outs <= 48 ? 48 : 64;
}

// The products of a tile that a block's registers hold.
constexpr int dense_most_products(int columns) {
  return columns <= 32 ? 8 : 4;
}

// The packs of the weights of eight channels: one more than they are, so that those of neighbouring
// channels lie in other banks.
ENGINE_HOST_DEVICE constexpr int dense_weight_packs(int columns) {
  return kDenseTaps * columns + 1;
}

// Two chunks are staged: one is multiplied, the other is filled.
inline DenseCut dense_forward_cut(int batch, int height, int width, int channels, int outs,
                                  const DeviceLimits& limits) {
  const int chunks = dense_up(channels, kDenseChunk), columns = dense_columns(outs);
  const int weights = chunks * kDensePacks * dense_weight_packs(columns) * 16;
  const int floats = 2 * chunks * kDenseChunk;  // a scale and a shift for each channel
  return dense_cut({.batch = batch,
                    .height = height,
                    .width = width,
                    .planes = 2 * kDensePacks,
                    .fixed = weights + floats * static_cast<int>(sizeof(float)),
                    .most_products = dense_most_products(columns),
                    .product_clocks = chunks * 2 * kDenseTaps * 24 + 200,
                    .stage_clocks = chunks * 200,
                    .most_units = partial_rows(int64_t{batch} * height * width, outs)},
                   limits);
}

// ---------------------------------------------------------------- the operand's gradient

constexpr int kDenseMostChannels = 256;  // of the operand
constexpr int kDenseGroup = 64;          // channels of the operand that a warpgroup takes
constexpr int kDenseDgradThreads = 512;
constexpr int kDenseAhead = 4;  // packs of x that a thread copies ahead

// Floats of shared memory: a scale and a shift for each channel of dy; scale, shift and mean for
// each of the operand.
ENGINE_HOST_DEVICE constexpr int dense_dgrad_floats(int channels, int outs) {
  return 2 * dense_up(outs, kDenseChunk) * kDenseChunk +
         3 * dense_up(channels, kDenseGroup) * kDenseGroup;
}

// dy of two tiles is staged, and y of one.
inline DenseCut dense_dgrad_cut(int batch, int height, int width, int channels, int outs,
                                const DeviceLimits& limits) {
  constexpr int kFloat = sizeof(float), kBuffers = 3;
  const int groups = dense_up(channels, kDenseGroup), depth = dense_up(outs, kDenseDepth);
  const int weights = groups * kDenseGroup / 8 * dense_weight_packs(depth * kDenseDepth) * 16;
  const int ahead = kDenseAhead * kDenseDgradThreads * 16;
  return dense_cut({.batch = batch,
                    .height = height,
                    .width = width,
                    .planes = kBuffers * dense_up(outs, kDenseChunk) * kDensePacks,
                    .fixed = weights + ahead + dense_dgrad_floats(channels, outs) * kFloat,
                    .least = kDenseDgradThreads * 64,  // of the merge
                    .most_products = 16,
                    .product_clocks = groups * (depth * kDenseTaps * 32 + 600),
                    .stage_clocks = 100,
                    .most_units = partial_rows(int64_t{batch} * height * width, channels)},
                   limits);
}

// ---------------------------------------------------------------- the weight's gradient

// A block takes a group of channels; each of its warpgroups one row of the window.
constexpr int kDenseWgradThreads = 384;
constexpr int kDenseWgradDepth = 32;    // positions that a warpgroup multiplies in one step
constexpr int kDenseWgradStaged = 576;  // at most: whole runs of what the threads stage together

// The floats from one row of a block's sums to the next: all lanes of a warp write to other banks.
constexpr int kDenseSumPitch = kDenseGroup + 4;

// The packs of a position of f and dy.
ENGINE_HOST_DEVICE constexpr int dense_wgrad_packs(int columns) {
  return kDenseGroup / 8 + dense_up(columns, kDenseChunk) * kDensePacks;
}
// Floats of shared memory: a scale and a shift for each of their channels.
ENGINE_HOST_DEVICE constexpr int dense_wgrad_floats(int columns) {
  return 2 * 8 * dense_wgrad_packs(columns);
}

// f and dy of two tiles are staged.
inline DenseCut dense_wgrad_cut(int batch, int height, int width, int channels, int outs,
                                const DeviceLimits& limits) {
  constexpr int kFloat = sizeof(float);
  const int columns = dense_columns(outs), groups = dense_up(channels, kDenseGroup);
  return dense_cut({.batch = batch,
                    .height = height,
                    .width = width,
                    .planes = 2 * dense_wgrad_packs(columns),
                    .fixed = dense_wgrad_floats(columns) * kFloat,
                    .least = kDenseTaps * columns * kDenseSumPitch * kFloat,
                    .depth = kDenseWgradDepth,
                    .ahead = 1,  // a row's border, and one more
                    .most_products = kDenseWgradStaged / kDenseWgradDepth,
                    .most_staged = kDenseWgradStaged,
                    .product_clocks = kDenseTaps * columns,
                    .stage_clocks = 150,
                    .first_clocks = 700,
                    .most_units = std::max(1, limits.multiprocessors / groups)},
                   limits);
}

// The floats of scratch for its rows of sums: (units, C', 9, C).
inline int64_t dense_wgrad_rows(int batch, int height, int width, int channels, int outs,
                                const DeviceLimits& limits) {
  return int64_t{dense_wgrad_cut(batch, height, width, channels, outs, limits).units} * outs *
         kDenseTaps * channels;
}

// Whether both directions of a layer fit.
inline bool dense_fits(int batch, int height, int width, int channels, int outs,
                       const DeviceLimits& limits) {
  return outs <= kDenseMostOuts && channels <= kDenseMostChannels &&
         dense_forward_cut(batch, height, width, channels, outs, limits).units > 0 &&
         dense_dgrad_cut(batch, height, width, channels, outs, limits).units > 0 &&
         dense_wgrad_cut(batch, height, width, channels, outs, limits).units > 0;
}

}  // namespace engine
