// How the kernels of a network's first convolution (kernels/stem) cut a batch into tiles, and the
// shared memory and the scratch that they take. No CUDA: the planner asks whether a layer fits, and
// the cut is tested without a device.
//
// The image has three channels and the stride is 2, so a row of the window is one run of values in
// memory, and that of the next output begins six values further. A tile is some rows by some
// columns of outputs; the rows of the image under it are staged as they lie. The inner dimension of
// the products is the window: its rows one after the other, each with a zero ahead, so that pairs
// of values lie in words, and with zeros behind, up to whole blocks of eight.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kStemChannels = 3;
constexpr int kStemStride = 2;
constexpr int kStemBlock = 8;          // values of the inner dimension that lie together
constexpr int kStemStep = 16;          // columns of a tile come in steps of a product's sixteen
constexpr int kStemMostColumns = 128;  // of a tile
constexpr int kStemMostOuts = 128;

// ---------------------------------------------------------------- the window

// Windows are square, kernel 3 or 7, padding kernel / 2.
ENGINE_HOST_DEVICE constexpr int stem_row_blocks(int kernel) {  // of a row of the window
  return (1 + kernel * kStemChannels + kStemBlock - 1) / kStemBlock;
}
ENGINE_HOST_DEVICE constexpr int stem_blocks(int kernel) {
  return kernel * stem_row_blocks(kernel);
}
// The elements of a weight of one output.
ENGINE_HOST_DEVICE constexpr int stem_window(int kernel) {
  return kernel * kernel * kStemChannels;
}
// The element of the window at place `at` of block `block`, as (row, column, channel) count them,
// or −1 where the inner dimension has a zero.
ENGINE_HOST_DEVICE constexpr int stem_element(int kernel, int block, int at) {
  const int row = block / stem_row_blocks(kernel);
  const int value = block % stem_row_blocks(kernel) * kStemBlock + at - 1;
  const int values = kernel * kStemChannels;
  return row < kernel && value >= 0 && value < values ? row * values + value : -1;
}

// ---------------------------------------------------------------- a staged row

// The values ahead of a row's segment: those that the window reaches, in whole groups of four,
// which are copied together.
constexpr int kStemAhead = 16;
constexpr int kStemCopied = 4;
ENGINE_HOST_DEVICE constexpr int stem_pitch(int columns) {
  return columns * kStemStride * kStemChannels + 2 * kStemAhead;
}
// Where the first row of the window of a tile's column begins in a staged row; even.
ENGINE_HOST_DEVICE constexpr int stem_value(int kernel, int column) {
  return column * kStemStride * kStemChannels + kStemAhead - kernel / 2 * kStemChannels - 1;
}

// ---------------------------------------------------------------- the cut

struct StemCut {
  int batch, height, width;  // of the image
  int kernel, out_height, out_width;
  int rows, columns;        // of outputs, in a tile
  int down, across, tiles;  // tiles of an image; in all
  int per, units;           // tiles of a thread block, thread blocks of a group of channels
  int shared;               // bytes

  ENGINE_HOST_DEVICE constexpr int positions() const { return rows * columns; }
  ENGINE_HOST_DEVICE constexpr int staged_rows() const { return (rows - 1) * kStemStride + kernel; }
  ENGINE_HOST_DEVICE constexpr int pitch() const { return stem_pitch(columns); }
  // The values of a staged tile.
  ENGINE_HOST_DEVICE constexpr int staged() const { return staged_rows() * pitch(); }
};

// A tile: its image, its first output, and how many rows and columns of outputs it has.
struct StemPlace {
  int image, y, x, rows, columns;
};
ENGINE_HOST_DEVICE constexpr StemPlace stem_place(const StemCut& cut, int tile) {
  const int band = tile / cut.across, image = band / cut.down;
  const int y = (band - image * cut.down) * cut.rows, x = (tile - band * cut.across) * cut.columns;
  const int below = cut.out_height - y, right = cut.out_width - x;
  return {image, y, x, cut.rows < below ? cut.rows : below,
          cut.columns < right ? cut.columns : right};
}

// The outputs of the tiles before a tile, and those of a unit.
ENGINE_HOST_DEVICE constexpr int stem_before(const StemCut& cut, int tile) {
  if (tile >= cut.tiles) return cut.batch * cut.out_height * cut.out_width;
  const StemPlace place = stem_place(cut, tile);
  return (place.image * cut.out_height + place.y) * cut.out_width + place.rows * place.x;
}
ENGINE_HOST_DEVICE constexpr int stem_count(const StemCut& cut, int unit) {
  return stem_before(cut, (unit + 1) * cut.per) - stem_before(cut, unit * cut.per);
}

// The columns of a product: outputs of a group of channels.
ENGINE_HOST_DEVICE constexpr int stem_columns(int outs) {
  if (outs <= 32) return 32;
  return outs <= 48 || (outs > 64 && outs <= 96) ? 48 : 64;
}
ENGINE_HOST_DEVICE constexpr int stem_groups(int outs) {
  return (outs + stem_columns(outs) - 1) / stem_columns(outs);
}

// What a cut depends on beside the shape.
struct StemWork {
  int fixed = 0;           // bytes of shared memory beside what is staged of the image
  int of_position = 0;     // bytes of it for each position of a tile
  int least = 0;           // bytes that are wanted in any case
  int most_positions = 0;  // of a tile
  int together = 1;        // positions that a block takes at a time
  int clocks = 1;          // for those
  int most_units = 1;
};

// The rows of a tile that take the least time; no units if none fits.
inline StemCut stem_cut(int batch, int height, int width, int kernel, const StemWork& w,
                        const DeviceLimits& limits) {
  constexpr int kSlack = 256, kStages = 2, kValue = 2, kEachTile = 1500, kEachCopy = 16;
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  const int room = limits.shared_bytes - limits.reserved_bytes - kSlack;
  StemCut best{}, c{};
  c.batch = batch, c.height = height, c.width = width, c.kernel = kernel;
  c.out_height = up(height, kStemStride), c.out_width = up(width, kStemStride);
  c.across = up(c.out_width, kStemMostColumns);
  c.columns = up(up(c.out_width, c.across), kStemStep) * kStemStep;
  int64_t least = INT64_MAX;
  for (c.rows = 1; c.rows <= c.out_height && c.positions() <= w.most_positions; ++c.rows) {
    c.down = up(c.out_height, c.rows);
    c.tiles = batch * c.down * c.across;
    c.per = up(c.tiles, std::max(1, std::min(limits.multiprocessors, w.most_units)));
    c.units = up(c.tiles, c.per);
    c.shared = std::max(w.least,
                        w.fixed + kStages * (c.staged() * kValue + c.positions() * w.of_position));
    if (c.shared > room) break;
    const int64_t clocks = int64_t{c.per} * (int64_t{up(c.positions(), w.together)} * w.clocks +
                                             c.staged() / kEachCopy + kEachTile);
    if (clocks >= least) continue;
    least = clocks;
    best = c;
  }
  return best;
}

// ---------------------------------------------------------------- forward

constexpr int kStemForwardThreads = 384;  // three warpgroups, with a product each
constexpr int kStemRows = 64;             // positions of a product

// The packs of the weights of a block of the inner dimension: one more than they are, so that those
// of neighbouring blocks lie in other banks.
ENGINE_HOST_DEVICE constexpr int stem_weight_packs(int columns) {
  return columns + 1;
}
// Products take two blocks in a step; the last of an odd number is of zeros.
ENGINE_HOST_DEVICE constexpr int stem_steps(int kernel) {
  return (stem_blocks(kernel) + 1) / 2;
}

inline StemCut stem_forward_cut(int batch, int height, int width, int kernel, int outs,
                                const DeviceLimits& limits) {
  constexpr int kMostPositions = 2048;
  const int64_t outputs = int64_t{batch} * ((height + 1) / 2) * ((width + 1) / 2);
  return stem_cut(
      batch, height, width, kernel,
      {.fixed = 2 * stem_steps(kernel) * stem_weight_packs(stem_columns(outs)) * kStemBlock * 2,
       .least = kStemForwardThreads * 64,  // of the merge
       .most_positions = kMostPositions,
       .together = kStemForwardThreads / 128 * kStemRows,
       .clocks = 1500,
       .most_units =
           std::min(limits.multiprocessors / stem_groups(outs), partial_rows(outputs, outs))},
      limits);
}

// ---------------------------------------------------------------- the weight's gradient

constexpr int kStemWgradThreads = 256;
constexpr int kStemTogether = 8;  // positions of which a thread has a pack of dy under way

// The elements that a warp takes: pairs of blocks, up to this many.
constexpr int kStemMostPairs = 3;
ENGINE_HOST_DEVICE constexpr int stem_pairs(int kernel) {
  return (stem_blocks(kernel) + 1) / 2;
}
// Warps that share the elements; the rest of them share the positions.
ENGINE_HOST_DEVICE constexpr int stem_element_warps(int kernel) {
  return (stem_pairs(kernel) + kStemMostPairs - 1) / kStemMostPairs;
}

// The values from one staged position of dy to the next: one pack more, for the banks.
ENGINE_HOST_DEVICE constexpr int stem_dy_pitch(int columns) {
  return columns + kStemBlock;
}

inline StemCut stem_wgrad_cut(int batch, int height, int width, int kernel, int outs,
                              const DeviceLimits& limits) {
  constexpr int kFloat = sizeof(float), kValue = 2;
  const int columns = stem_columns(outs), packs = columns / kStemBlock;
  return stem_cut(batch, height, width, kernel,
                  {.of_position = stem_dy_pitch(columns) * kValue,
                   .least = columns * 2 * stem_pairs(kernel) * kStemBlock * kFloat,
                   .most_positions = kStemWgradThreads / packs * kStemTogether,
                   .together = kStemStep * 8 / stem_element_warps(kernel),
                   .clocks = 600,
                   .most_units = std::max(1, limits.multiprocessors / stem_groups(outs))},
                  limits);
}

// The floats of scratch for its rows of sums: (units, C', K, K, 3).
inline int64_t stem_wgrad_rows(int batch, int height, int width, int kernel, int outs,
                               const DeviceLimits& limits) {
  return int64_t{stem_wgrad_cut(batch, height, width, kernel, outs, limits).units} * outs *
         stem_window(kernel);
}

// Whether both directions of a layer fit.
inline bool stem_fits(int batch, int height, int width, int kernel, int outs,
                      const DeviceLimits& limits) {
  return (kernel == 3 || kernel == 7) && width % kStemCopied == 0 && outs <= kStemMostOuts &&
         stem_forward_cut(batch, height, width, kernel, outs, limits).units > 0 &&
         stem_wgrad_cut(batch, height, width, kernel, outs, limits).units > 0;
}

}  // namespace engine
