// How the kernel that makes both gradients of a pointwise convolution from a narrow operand
// (kernels/gemm/narrow.cu) cuts its work, and the memory that it takes. No CUDA: the planner asks
// whether a layer fits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/folded_tiles.h"
#include "kernels/tiles.h"

namespace engine {

// Four warpgroups multiply what one fills.
constexpr int kNarrowWarpgroups = 4, kNarrowThreads = (kNarrowWarpgroups + 1) * 128;
constexpr int kNarrowOuts = 64;                  // of the output, whose dW a warpgroup holds
constexpr int kNarrowColumns = 64;               // most channels of the operand
constexpr int kNarrowSets = 2;                   // of the operand's channels
constexpr int kNarrowProduct = 64;               // pixels of a product
constexpr int kNarrowTile = 2 * kNarrowProduct;  // pixels that are staged together
constexpr int kNarrowMostStages = 4;
constexpr int kNarrowAlignment = 1024;  // bytes: of what the copy engine swizzles

// A unit is a run of tiles, and a thread block has one.
struct NarrowCut {
  int pixels, depth;  // the depth, C', in whole products
  int columns;        // channels of the operand that are multiplied: 32 or 64
  int tiles, per, units;
  int stages;  // tiles of which G and f are staged
  int shared;  // bytes

  // Blocks of 64 channels of the output.
  ENGINE_HOST_DEVICE constexpr int blocks() const {
    return (depth + kNarrowOuts - 1) / kNarrowOuts;
  }
  // The bytes of a block of G, of f, and of a stage.
  ENGINE_HOST_DEVICE static constexpr int block() { return kNarrowTile * kNarrowOuts * 2; }
  ENGINE_HOST_DEVICE constexpr int operand() const { return kNarrowTile * columns * 2; }
  ENGINE_HOST_DEVICE constexpr int stage() const { return blocks() * block() + operand(); }
  // The packs of the folded weights of eight channels: of G, then twice of f, whose weights are
  // sums of two.
  ENGINE_HOST_DEVICE constexpr int weight_plane() const { return depth + 2 * columns + 1; }
  // The floats that its warps leave at the end: two sums of a norm from each warp's rows, and Σ f.
  ENGINE_HOST_DEVICE constexpr int ends() const { return 2 * (kNarrowTile / 16) * columns + 1024; }
};

inline NarrowCut narrow_cut(int64_t pixels, int channels, int outs, const DeviceLimits& limits) {
  constexpr int kDepth = 16, kPackBytes = 16, kSlack = 256, kVectors = 6;
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  NarrowCut c{};
  c.pixels = static_cast<int>(pixels);
  c.depth = up(outs, kDepth) * kDepth;
  c.columns = channels <= 32 ? 32 : kNarrowColumns;
  c.tiles = up(pixels, kNarrowTile);
  c.per = up(c.tiles, std::min(limits.multiprocessors, partial_rows(pixels, channels)));
  c.units = up(c.tiles, c.per);
  const int floats = kVectors * c.columns + c.ends();
  const int fixed = kNarrowAlignment + c.columns / 8 * c.weight_plane() * kPackBytes +
                    floats * int{sizeof(float)} + ring_bytes(kNarrowMostStages);
  const int room = limits.shared_bytes - limits.reserved_bytes - kSlack - fixed;
  c.stages = std::clamp(room / c.stage(), 0, kNarrowMostStages);
  c.shared = fixed + c.stages * c.stage();
  return c;
}

inline FoldedScratch narrow_scratch(const NarrowCut& cut, int channels, int outs) {
  return folded_scratch(channels, outs, cut.units, (int64_t{outs} + channels + 1) * channels);
}

inline bool narrow_fits(int64_t pixels, int channels, int outs, const DeviceLimits& limits) {
  return channels <= kNarrowColumns && outs <= kNarrowOuts * kNarrowWarpgroups && channels < outs &&
         narrow_cut(pixels, channels, outs, limits).stages >= 2;
}

}  // namespace engine
