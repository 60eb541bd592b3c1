// How a fused product cuts its work, and the shared memory that it takes. No CUDA: the planner asks
// whether a product fits, and the cut is tested without a device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kProductBlock = 32;  // channels of a block: eight of each of four threads
constexpr int kProductTile = 32;   // pixels of a warp's tile: four of each of eight threads
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
      .warps = 4, .forward_blocks = 4, .backward_blocks = 3, .held = 0, .chunk = 1};
};
struct ProductStreamed {
  static constexpr ProductShape shape{
      .warps = 6, .forward_blocks = 2, .backward_blocks = 2, .held = 0, .chunk = 2};
};
struct ProductHeld64 {
  static constexpr ProductShape shape{
      .warps = 4, .forward_blocks = 4, .backward_blocks = 3, .held = 2, .chunk = 1};
};
struct ProductHeld128 {
  static constexpr ProductShape shape{
      .warps = 4, .forward_blocks = 3, .backward_blocks = 2, .held = 4, .chunk = 1};
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
  const int floats = 2 * depth + (w.constants + w.sums * shape.warps) * columns + shape.warps;
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

}  // namespace engine
