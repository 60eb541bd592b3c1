// How fused products cut their work, and the shared memory they take. No CUDA: the planner asks
// whether a product fits and what scratch it wants, and the cuts are tested without a device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "kernels/tiles.h"

namespace engine {

constexpr int kProductBlock = 32;  // channels of a block: eight of each of four threads
constexpr int kProductTile = 16;   // pixels of a warp's tile: two of each of eight threads
constexpr int kProductStages = 2;  // slots of a warp's ring

// A form of the kernel. A warp keeps `held` blocks of its source, transformed, in registers and
// passes over the output in chunks; or it streams the source block by block, for each chunk anew.
struct ProductShape {
  int warps;  // of a thread block
  // Thread blocks of a multiprocessor that the registers allow, by direction.
  int forward_blocks, backward_blocks;
  int held;   // blocks of the source; 0: it is streamed
  int chunk;  // blocks of the output that are made together

  constexpr int blocks(bool backward) const { return backward ? backward_blocks : forward_blocks; }
};

// Those that there are, as types for the kernel.
struct ProductNarrow {
  static constexpr ProductShape shape{
      .warps = 8, .forward_blocks = 3, .backward_blocks = 2, .held = 0, .chunk = 1};
};
struct ProductStreamed {
  static constexpr ProductShape shape{
      .warps = 8, .forward_blocks = 2, .backward_blocks = 2, .held = 0, .chunk = 2};
};
struct ProductWide {
  static constexpr ProductShape shape{
      .warps = 12, .forward_blocks = 1, .backward_blocks = 1, .held = 0, .chunk = 4};
};
struct ProductHeld64 {
  static constexpr ProductShape shape{
      .warps = 8, .forward_blocks = 3, .backward_blocks = 2, .held = 2, .chunk = 1};
};
struct ProductHeld128 {
  static constexpr ProductShape shape{
      .warps = 8, .forward_blocks = 2, .backward_blocks = 2, .held = 4, .chunk = 1};
};

// (pixels, depth) · (depth, channels), and what a thread block keeps beside the operands.
struct ProductWork {
  bool backward = false;
  int64_t pixels = 0;
  int area = 0;          // pixels that no tile straddles: of an image, or all
  bool by_area = false;  // a unit's sums are of one area
  int depth = 0, channels = 0;
  int streams = 1;              // tensors that the source is made of
  int reads = 0;                // tensors that the epilogue reads
  int constants = 0, sums = 0;  // floats of each output channel; sums are of each warp
  int most_units = 1;           // rows of the partial sums
};

// The grid is (groups, units). A group is a range of output channels, whose weights stay in shared
// memory; a unit is a run of tiles, which its warps take in turn.
struct ProductCut {
  int area, strips;        // pixels and tiles of an area
  int tiles, span;         // tiles in all; tiles that a unit does not straddle
  int pieces, per, units;  // units of a span, tiles of a unit, units in all
  int depth_blocks;        // blocks of the source
  int columns, groups;     // output channels of a group: whole chunks
  int slot, shared;        // bytes of a ring's slot, of all shared memory
};

ENGINE_HOST_DEVICE constexpr int product_blocks(int64_t n, int64_t each) {
  return static_cast<int>((n + each - 1) / each);
}

// The bytes of a slot: the larger of what a block of the source and one of the output take.
inline int product_slot(const ProductWork& w) {
  return kProductTile * kProductBlock * 2 * std::max(w.streams, w.reads);
}

inline int product_shared(const ProductShape& shape, const ProductWork& w, int columns) {
  const int depth = product_blocks(w.depth, kProductBlock) * kProductBlock;
  const int floats = 3 * depth + (w.constants + w.sums * shape.warps) * columns + shape.warps;
  return 2 * depth * columns + shape.warps * kProductStages * product_slot(w) +
         floats * static_cast<int>(sizeof(float));
}

// Calls use(shape type) with the shape for a product: a source that fits in registers is held, and
// one that is streamed makes as many channels at a time as there are.
template <class Use>
decltype(auto) visit_product_shape(int depth, int channels, Use use) {
  if (depth <= ProductHeld64::shape.held * kProductBlock) return use(ProductHeld64{});
  if (channels <= ProductNarrow::shape.chunk * kProductBlock) return use(ProductNarrow{});
  if (depth <= ProductHeld128::shape.held * kProductBlock) return use(ProductHeld128{});
  constexpr int kWide = ProductWide::shape.chunk * kProductBlock;
  if ((channels - 1) % kWide >= kWide / 2) return use(ProductWide{});
  return use(ProductStreamed{});
}
inline ProductShape product_shape(int depth, int channels) {
  return visit_product_shape(depth, channels, [](auto type) { return type.shape; });
}

// Whether a block's shared memory holds the weights of one chunk, with all that a backward wants.
inline bool product_fits(int depth, int channels, const DeviceLimits& limits) {
  const ProductShape shape = product_shape(depth, channels);
  const ProductWork most{.depth = depth, .streams = 2, .reads = 2, .constants = 3, .sums = 3};
  return product_shared(shape, most, shape.chunk * kProductBlock) <=
         limits.shared_bytes - limits.reserved_bytes;
}

// Groups are as wide as leaves room for as many thread blocks as the registers allow, or else for
// fewer, and narrower where the device would not be filled once.
inline ProductCut product_cut(const ProductShape& shape, const ProductWork& w,
                              const DeviceLimits& limits) {
  const int chunk = shape.chunk * kProductBlock, chunks = product_blocks(w.channels, chunk);
  int wide = 0, resident = shape.blocks(w.backward);
  for (; resident > 0; --resident) {
    const int room = limits.shared_bytes / resident - limits.reserved_bytes;
    for (wide = chunks; wide > 0 && product_shared(shape, w, wide * chunk) > room;) --wide;
    if (wide > 0) break;
  }
  ProductCut cut{};
  cut.area = w.area;
  cut.strips = product_blocks(w.area, kProductTile);
  cut.tiles = static_cast<int>(w.pixels / w.area) * cut.strips;
  const int capacity = std::max(1, resident) * limits.multiprocessors;
  const int rounds = product_blocks(cut.tiles, shape.warps);
  cut.groups = product_blocks(chunks, std::max(1, wide));
  while (cut.groups < chunks && int64_t{2} * cut.groups * rounds <= capacity)
    cut.groups = std::min(chunks, 2 * cut.groups);
  cut.columns = product_blocks(chunks, cut.groups) * chunk;
  cut.groups = product_blocks(w.channels, cut.columns);
  cut.depth_blocks = product_blocks(w.depth, kProductBlock);
  cut.slot = product_slot(w);
  cut.shared = product_shared(shape, w, cut.columns);

  // As many units as fill the device once, of a whole number of tiles for each warp.
  cut.span = w.by_area ? cut.strips : cut.tiles;
  const int spans = cut.tiles / cut.span;
  const int wanted = std::clamp(capacity / cut.groups, 1, std::max(1, w.most_units)) / spans;
  cut.per = product_blocks(cut.span, std::max(1, wanted));
  if (cut.per < cut.span) cut.per = product_blocks(cut.per, shape.warps) * shape.warps;
  cut.pieces = product_blocks(cut.span, cut.per);
  cut.units = spans * cut.pieces;
  return cut;
}

// ---------------------------------------------------------------- warps that keep their channels

// The operand's gradient where the depth is that of four blocks: a warp keeps a block of the output
// while its thread block goes through a run of pixels, kProductBlock pixels of each row group a
// step.
constexpr int kKeptDepth = 4 * kProductBlock;
constexpr int kKeptWarps = 8;   // of a thread block: four blocks of the depth by two rows of packs
constexpr int kKeptBlocks = 2;  // thread blocks of a multiprocessor that the registers allow

// The grid is (groups, units), as above.
struct KeptCut {
  int blocks, groups;    // blocks of the output of a group; groups
  int row_groups, rows;  // warps that share a block's pixels; pixels of a step
  int per, units;        // pixels of a unit, units in all
  int shared;            // bytes of all shared memory
};

// Weights, two tiles, the ring's one slot, the constants of the source's and the output's channels.
inline int kept_shared(int blocks, int row_groups, int streams) {
  const int of_tile = row_groups * kProductBlock * kKeptDepth;
  return 2 * (blocks * kProductBlock * kKeptDepth + (2 + streams) * of_tile) +
         (2 * kKeptDepth + 3 * blocks * kProductBlock) * static_cast<int>(sizeof(float));
}

// Two thread blocks of a multiprocessor must fit; units are as many as fill the device once.
inline KeptCut kept_cut(int64_t pixels, int channels, int streams, const DeviceLimits& limits) {
  const int room = limits.shared_bytes / kKeptBlocks - limits.reserved_bytes;
  const int all = product_blocks(channels, kProductBlock);
  int wide = std::min(all, kKeptWarps);
  while (wide > 1 && kept_shared(wide, 1, streams) > room) --wide;
  KeptCut cut{};
  cut.blocks = product_blocks(all, product_blocks(all, wide));
  cut.groups = product_blocks(all, cut.blocks);
  const bool halved = 2 * cut.blocks <= kKeptWarps && kept_shared(cut.blocks, 2, streams) <= room;
  cut.row_groups = halved ? 2 : 1;
  cut.rows = cut.row_groups * kProductBlock;
  cut.shared = kept_shared(cut.blocks, cut.row_groups, streams);
  const int steps = product_blocks(pixels, cut.rows);
  const int units = std::clamp(kKeptBlocks * limits.multiprocessors / cut.groups, 1,
                               partial_rows(pixels, channels));
  cut.per = product_blocks(steps, units) * cut.rows;
  cut.units = product_blocks(pixels, cut.per);
  return cut;
}

// Whether warps can keep their channels: fewer than two blocks would leave most of them idle.
inline bool keeps_channels(int depth, int channels) {
  return depth > kKeptDepth / 2 && depth <= kKeptDepth && channels > kProductBlock;
}

// ---------------------------------------------------------------- the gradient of the weights

// dweight (rows, columns) = dyᵀ (rows, pixels) · f (pixels, columns). A thread block takes a
// rectangle of dweight over a run of pixels, kWgradPixels a step; its warps take a grid of
// rectangles of that, kWgradColumns wide.
constexpr int kWgradPixels = 32;
constexpr int kWgradColumns = 32;
constexpr int kWgradPack = 8;       // channels that a thread takes at a time, 16 bytes
constexpr int kWgradMostSlots = 4;  // of the ring of what is copied ahead, a step each

// A form of the kernel.
struct WgradShape {
  int warps;   // of a thread block, a power of two
  int rows;    // of a warp's rectangle, a multiple of 16
  int blocks;  // thread blocks of a multiprocessor that the registers allow
};

// Those that there are, as types for the kernel.
struct WgradNarrow {
  static constexpr WgradShape shape{.warps = 8, .rows = 32, .blocks = 2};
};
struct WgradSquare {
  static constexpr WgradShape shape{.warps = 8, .rows = 64, .blocks = 2};
};
struct WgradMedium {
  static constexpr WgradShape shape{.warps = 16, .rows = 48, .blocks = 1};
};
struct WgradLarge {
  static constexpr WgradShape shape{.warps = 16, .rows = 64, .blocks = 1};
};
constexpr WgradShape kWgradShapes[] = {WgradNarrow::shape, WgradSquare::shape, WgradMedium::shape,
                                       WgradLarge::shape};

// Calls use(shape type) with number `which` of kWgradShapes.
template <class Use>
decltype(auto) visit_wgrad_shape(int which, Use use) {
  switch (which) {
    case 0: return use(WgradNarrow{});
    case 1: return use(WgradSquare{});
    case 2: return use(WgradMedium{});
    default: return use(WgradLarge{});
  }
}

// One side of a block's rectangle: dy or f. Some of the block's warps copy and transform it, each
// thread always the same pack, of every `step`th pixel.
struct WgradSide {
  int channels;       // of all blocks
  int packs, blocks;  // packs of a block; blocks along this side
  int pitch;          // packs from pixel to pixel for the matrix unit; odd, so that no banks clash
  int streams;        // tensors that it is made of
  int warps, step;    // threads that have no pack, or lie beyond `step` pixels, do nothing
  int passes;         // pixels of a thread in a step

  ENGINE_HOST_DEVICE constexpr int threads() const { return warps * 32; }
  ENGINE_HOST_DEVICE constexpr int copied() const { return passes * streams * threads(); }  // packs
};

// The grid is (row blocks · column blocks, splits); a split is a run of pixels.
struct WgradCut {
  int shape;                // its number
  int warp_rows;            // of the grid of warps
  WgradSide rows, columns;  // dy, f
  int tile, slot;           // packs of a step: transformed, and in the ring
  int resident;             // thread blocks of a multiprocessor
  int slots, shared;        // slots of the ring; bytes of all shared memory
  int per, splits;          // pixels of a split; splits
};

// Blocks as wide as a grid of warps, or all alike; `rectangle` is what a warp has of it.
inline WgradSide wgrad_side(int channels, int streams, int warps, int rectangle) {
  WgradSide side{.channels = channels, .streams = streams};
  const int all = channels / kWgradPack, of_warp = rectangle / kWgradPack;
  side.blocks = product_blocks(all, warps * of_warp);
  side.packs = product_blocks(all, side.blocks);
  side.blocks = product_blocks(all, side.packs);
  side.pitch = product_blocks(side.packs, of_warp) * of_warp | 1;
  return side;
}

// Shares the warps out so that both sides are ready at about the same time; false: they are too
// few. A pack of dy, made of two, takes about half again as long as one of f.
inline bool share_wgrad_warps(WgradCut& cut, int warps) {
  constexpr int kRowTime = 3, kColumnTime = 2;
  const auto passes = [](const WgradSide& side, int w) {
    const int step = std::min(kWgradPixels, 32 * w / side.packs);
    return step > 0 ? product_blocks(kWgradPixels, step) : kWgradPixels * side.packs;
  };
  int chosen = 1, least = INT32_MAX;
  for (int w = 1; w < warps; ++w) {
    const int time =
        std::max(kRowTime * passes(cut.rows, w), kColumnTime * passes(cut.columns, warps - w));
    if (time >= least) continue;
    least = time;
    chosen = w;
  }
  cut.rows.warps = chosen;
  cut.columns.warps = warps - chosen;
  for (WgradSide* side : {&cut.rows, &cut.columns}) {
    side->step = std::min(kWgradPixels, side->threads() / side->packs);
    side->passes = passes(*side, side->warps);
  }
  return cut.rows.step > 0 && cut.columns.step > 0;
}

// As many thread blocks of a multiprocessor as the registers allow, or fewer, each with two tiles
// and as many slots as fit; false: there is no room for two slots.
inline bool fit_wgrad(WgradCut& cut, const WgradShape& shape, const DeviceLimits& limits) {
  constexpr int kPackBytes = 16;
  cut.tile = kWgradPixels * (cut.rows.pitch + cut.columns.pitch);
  cut.slot = cut.rows.copied() + cut.columns.copied();
  for (cut.resident = shape.blocks; cut.resident > 0; --cut.resident) {
    const int room = limits.shared_bytes / cut.resident - limits.reserved_bytes;
    for (cut.slots = kWgradMostSlots; cut.slots >= 2; --cut.slots) {
      cut.shared = (2 * cut.tile + cut.slots * cut.slot) * kPackBytes;
      if (cut.shared <= room) return true;
    }
  }
  return false;
}

// A multiprocessor with fewer than 16 warps takes half again as long.
inline int64_t slowed(int64_t time, int warps) {
  return warps < 16 ? time + time / 2 : time;
}

// The splits that take the least time, in bytes that a multiprocessor moves: what its blocks load,
// and its share of the partial sums, written and read.
inline void split_wgrad(WgradCut& cut, int64_t pixels, const DeviceLimits& limits) {
  constexpr int64_t kPackBytes = 16, kSumBytes = 2 * sizeof(float);
  const int steps = product_blocks(pixels, kWgradPixels),
            tiles = cut.rows.blocks * cut.columns.blocks;
  const int64_t step_bytes =
      int64_t{kWgradPixels} * kPackBytes * (cut.rows.streams * cut.rows.packs + cut.columns.packs);
  const int64_t elements = int64_t{cut.rows.channels} * cut.columns.channels;
  const int most = std::clamp(cut.resident * limits.multiprocessors / tiles, 1, steps);
  int64_t least = INT64_MAX;
  for (int wanted = 1; wanted <= most; ++wanted) {
    const int per = product_blocks(steps, wanted), splits = product_blocks(steps, per);
    const int together = product_blocks(int64_t{tiles} * splits, limits.multiprocessors);
    const int warps = std::min(together, cut.resident) * kWgradShapes[cut.shape].warps;
    const int64_t sums = splits > 1 ? splits * elements * kSumBytes / limits.multiprocessors : 0;
    const int64_t time = slowed(together * per * step_bytes, warps) + sums;
    if (time >= least) continue;
    least = time;
    cut.per = per * kWgradPixels;
    cut.splits = splits;
  }
}

// The shape and grid of warps that load and multiply least: for each pixel, a value that is loaded
// takes about as long as 128 products. Channels are multiples of eight.
inline WgradCut wgrad_cut(int64_t pixels, int rows, int columns, const DeviceLimits& limits) {
  constexpr int64_t kLoad = 128;
  constexpr int kShapes = static_cast<int>(std::size(kWgradShapes));
  WgradCut best{};
  int64_t least = INT64_MAX;
  for (int which = 0; which < kShapes; ++which) {
    const WgradShape& shape = kWgradShapes[which];
    for (int warp_rows = 1; warp_rows <= shape.warps; warp_rows *= 2) {
      WgradCut cut{.shape = which, .warp_rows = warp_rows};
      const int warp_columns = shape.warps / warp_rows;
      cut.rows = wgrad_side(rows, 2, warp_rows, shape.rows);
      cut.columns = wgrad_side(columns, 1, warp_columns, kWgradColumns);
      if (!share_wgrad_warps(cut, shape.warps) || !fit_wgrad(cut, shape, limits)) continue;
      const int64_t tiles = int64_t{cut.rows.blocks} * cut.columns.blocks;
      const int64_t loads = int64_t{2} * cut.columns.blocks * rows + cut.rows.blocks * columns;
      const int64_t time = slowed(kLoad * loads + tiles * shape.warps * shape.rows * kWgradColumns,
                                  cut.resident * shape.warps);
      if (time >= least) continue;
      least = time;
      best = cut;
    }
  }
  split_wgrad(best, pixels, limits);
  return best;
}

// The floats of scratch for the partial sums, (splits, rows, columns); none where nothing is split.
inline int64_t wgrad_partials(const WgradCut& cut) {
  return cut.splits > 1 ? int64_t{cut.splits} * cut.rows.channels * cut.columns.channels : 0;
}

}  // namespace engine
