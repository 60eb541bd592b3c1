// How the kernels of dense 3 × 3 convolutions (kernels/dense) cut a batch into tiles, and the shared
// memory and the scratch that they take. No CUDA: the planner asks whether a layer fits, and the cut
// is tested without a device.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kDenseTaps = 9;
constexpr int kDenseWidth = 8, kDenseRows = 4;  // pixels of a cell; a warp takes two cells
constexpr int kDenseChunk = 32;                 // channels that are staged together
constexpr int kDensePacks = kDenseChunk / 8;    // the same in packs of 16 bytes
constexpr int kDenseStages = 3;                 // chunks that the forward keeps
constexpr int kDenseMostOuts = 64;

// The warps of a block: along the pixels of a tile, and along the channels that are made.
struct DenseShape {
  int pixels, channels;
  constexpr int threads() const { return 32 * pixels * channels; }
};
inline constexpr DenseShape kDenseShapes[] = {{8, 1}, {4, 2}, {1, 4}};

// What a cut depends on beside the shape.
struct DenseWork {
  int batch = 0, height = 0, width = 0;
  int planes = 0;      // packs of a staged pixel, over all that is staged at a time
  int fixed = 0;       // bytes of shared memory beside them
  int most_units = 1;  // rows of the partial sums
};

// A tile is `columns` × `strips` cells of each of `images` images: all of the image, if there are
// several. What is staged of it has a border of one pixel around each image; it lies in planes, one
// for each pack of eight channels.
struct DenseCut {
  DenseShape shape;
  int batch, height, width;
  int columns, strips, images;
  int across, down, tiles;  // tiles along x and y of an image; in all
  int per, units;           // tiles of a thread block, thread blocks
  int pitch, rows, staged;  // staged pixels of a row, rows of an image, pixels in all
  int plane;                // pixels that a plane has room for
  int by_pitch, by_rows;    // what divides by pitch and by rows
  int shared;               // bytes

  ENGINE_HOST_DEVICE int cells() const { return columns * strips * images; }
};

ENGINE_HOST_DEVICE constexpr int dense_up(int64_t n, int64_t each) {
  return static_cast<int>((n + each - 1) / each);
}

// n / d for the pixels of a tile: n < 2^10 and d < 2^10.
constexpr int kDenseDivision = 20;
constexpr int dense_reciprocal(int d) {
  return dense_up(1 << kDenseDivision, d);
}
ENGINE_HOST_DEVICE int dense_quotient(int n, int reciprocal) {
  return n * reciprocal >> kDenseDivision;
}

// The first pixel of a tile.
struct DensePlace {
  int image, y, x;
};
ENGINE_HOST_DEVICE DensePlace dense_place(const DenseCut& cut, int tile) {
  const int of_image = cut.across * cut.down, image = tile / of_image;
  const int at = tile - image * of_image, row = at / cut.across;
  return {image * cut.images, row * cut.strips * kDenseRows,
          (at - row * cut.across) * cut.columns * kDenseWidth};
}

// The pixel of the whole batch at (y, x) of an image, or −1 outside of it.
ENGINE_HOST_DEVICE int dense_pixel(const DenseCut& cut, int image, int y, int x) {
  const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(cut.height) &&
                      static_cast<unsigned>(x) < static_cast<unsigned>(cut.width) &&
                      image < cut.batch;
  return inside ? (image * cut.height + y) * cut.width + x : -1;
}

// The same of staged pixel `at` of a tile.
ENGINE_HOST_DEVICE int dense_staged(const DenseCut& cut, const DensePlace& place, int at) {
  const int row = dense_quotient(at, cut.by_pitch), image = dense_quotient(row, cut.by_rows);
  return dense_pixel(cut, place.image + image, place.y - 1 + row - image * cut.rows,
                     place.x - 1 + at - row * cut.pitch);
}

// The staged pixel at the corner of what a cell reads: its first pixel, at the first tap. A cell
// beyond the last one reads the first one.
ENGINE_HOST_DEVICE int dense_corner(const DenseCut& cut, int cell) {
  if (cell >= cut.cells()) return 0;
  const int row = cell / cut.columns, image = row / cut.strips;
  return (image * cut.rows + (row - image * cut.strips) * kDenseRows) * cut.pitch +
         (cell - row * cut.columns) * kDenseWidth;
}

// The pixels of the images that the tiles of a unit have.
ENGINE_HOST_DEVICE int dense_count(const DenseCut& cut, int unit) {
  int count = 0;
  for (int tile = unit * cut.per; tile < cut.tiles && tile < (unit + 1) * cut.per; ++tile) {
    const DensePlace at = dense_place(cut, tile);
    const auto least = [](int a, int b) { return a < b ? a : b; };
    count += least(cut.images, cut.batch - at.image) *
             least(cut.strips * kDenseRows, cut.height - at.y) *
             least(cut.columns * kDenseWidth, cut.width - at.x);
  }
  return count;
}

// The cut into tiles of columns × strips × images cells.
inline DenseCut dense_tiling(const DenseShape& shape, const DenseWork& w, int columns, int strips,
                             int images, const DeviceLimits& limits) {
  DenseCut c{};
  c.shape = shape;
  c.batch = w.batch, c.height = w.height, c.width = w.width;
  c.columns = columns, c.strips = strips, c.images = images;
  c.across = dense_up(w.width, columns * kDenseWidth);
  c.down = dense_up(w.height, strips * kDenseRows);
  c.tiles = dense_up(w.batch, images) * c.across * c.down;
  c.per = dense_up(c.tiles, std::min(limits.multiprocessors, std::max(1, w.most_units)));
  c.units = dense_up(c.tiles, c.per);
  c.pitch = columns * kDenseWidth + 2;
  c.rows = strips * kDenseRows + 2;
  c.staged = images * c.rows * c.pitch;
  c.plane = dense_up(c.staged - 2, 8) * 8 + 2;  // two pixels of four packs are eight banks
  c.by_pitch = dense_reciprocal(c.pitch);
  c.by_rows = dense_reciprocal(c.rows);
  c.shared = w.fixed + w.planes * c.plane * 16;
  return c;
}

// The tiling that takes the least time where a staged pixel costs half of what a pixel of the tile
// does, whether it is there or not; no units if none fits.
inline DenseCut dense_cut(const DenseWork& w, const DenseShape& shape, const DeviceLimits& limits) {
  constexpr int kSlack = 256, kMostStaged = 1 << 10;
  const int room = limits.shared_bytes - limits.reserved_bytes - kSlack;
  const int most = 2 * shape.pixels, wide = dense_up(w.width, kDenseWidth),
            high = dense_up(w.height, kDenseRows);
  DenseCut best{};
  int64_t least = INT64_MAX;
  for (int columns = 1; columns <= std::min(wide, most); ++columns)
    for (int strips = 1; strips <= std::min(high, most / columns); ++strips) {
      const bool whole = columns == wide && strips == high;
      for (int images = 1; images <= (whole ? most / (columns * strips) : 1); ++images) {
        const DenseCut c = dense_tiling(shape, w, columns, strips, images, limits);
        if (c.shared > room || c.staged > kMostStaged) continue;
        const int64_t time =
            int64_t{c.per} * (2 * shape.pixels * 2 * kDenseWidth * kDenseRows + c.staged);
        if (time >= least) continue;
        least = time;
        best = c;
      }
    }
  return best;
}

// The fastest of `cut_of(shape)` for all shapes; no units if none fits.
template <class CutOf>
DenseCut dense_best(CutOf cut_of) {
  DenseCut best{};
  int64_t least = INT64_MAX;
  for (const DenseShape& shape : kDenseShapes) {
    const DenseCut c = cut_of(shape);
    const int64_t time =
        int64_t{c.per} * (2 * shape.pixels * 2 * kDenseWidth * kDenseRows + c.staged);
    if (c.units == 0 || time >= least) continue;
    least = time;
    best = c;
  }
  return best;
}

// ---------------------------------------------------------------- forward

// The columns of a product that makes `outs` channels with some warps along them.
constexpr int dense_columns(int outs, const DenseShape& shape) {
  const int each = outs > 32 && shape.channels < 4 ? 16 : 32;
  return dense_up(outs, each) * each;
}

// The packs of the weights of eight channels: one more than they are, so that those of neighbouring
// channels lie in other banks.
ENGINE_HOST_DEVICE constexpr int dense_weight_packs(int columns) {
  return kDenseTaps * columns + 1;
}

// A warp makes at most 48 channels, for its registers' sake.
inline DenseCut dense_forward_cut(int batch, int height, int width, int channels, int outs,
                                  const DeviceLimits& limits) {
  return dense_best([&](const DenseShape& shape) {
    if (outs > 48 * shape.channels) return DenseCut{};
    const int chunks = dense_up(channels, kDenseChunk), columns = dense_columns(outs, shape);
    const int weights = chunks * kDensePacks * dense_weight_packs(columns) * 16;
    const int floats = 2 * chunks * kDenseChunk;  // a scale and a shift for each channel
    return dense_cut({.batch = batch,
                      .height = height,
                      .width = width,
                      .planes = kDenseStages * kDensePacks,
                      .fixed = weights + floats * static_cast<int>(sizeof(float)),
                      .most_units = partial_rows(int64_t{batch} * height * width, outs)},
                     shape, limits);
  });
}

// Whether both directions of a layer fit.
inline bool dense_fits(int batch, int height, int width, int channels, int outs,
                       const DeviceLimits& limits) {
  return outs <= kDenseMostOuts &&
         dense_forward_cut(batch, height, width, channels, outs, limits).units > 0;
}

}  // namespace engine
