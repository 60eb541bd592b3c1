// How the kernel that makes both gradients of a pointwise convolution (kernels/gemm/joined.cu) cuts
// its work, and the memory that it takes. No CUDA: the planner asks whether a layer fits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kJoinedThreads = 512, kJoinedWarpgroups = kJoinedThreads / 128;
constexpr int kJoinedSet = 32;                 // channels of the operand that a warpgroup has
constexpr int kJoinedProduct = 64;             // pixels of a product
constexpr int kJoinedTile = 128;               // pixels that are staged together
constexpr int kJoinedMostDepth = 128;          // channels of the output: what registers hold of dW
constexpr int kJoinedAhead = 4;                // packs of x and G that a thread copies ahead
constexpr int kJoinedPlane = kJoinedTile + 1;  // packs of a staged channel of dy: odd
constexpr int kJoinedFPlane = kJoinedProduct + 2;  // of f, four of them: two more than eight times

// The grid is (groups, units): a group is up to four sets of channels, a unit a run of tiles. Where
// a group has fewer sets than there are warpgroups, some share one, each with its own products.
struct JoinedCut {
  int pixels, depth;  // the depth in whole products
  int sets, groups;   // sets of a group
  int tiles, per, units;
  int shared;  // bytes

  ENGINE_HOST_DEVICE constexpr int columns() const { return sets * kJoinedSet; }
  ENGINE_HOST_DEVICE constexpr int packs() const { return depth / 8; }
  // The packs of the weights of eight channels.
  ENGINE_HOST_DEVICE constexpr int weight_plane() const { return depth + 1; }
};

inline JoinedCut joined_cut(int64_t pixels, int channels, int outs, const DeviceLimits& limits) {
  constexpr int kDepth = 16, kPackBytes = 16, kFloat = sizeof(float);
  constexpr int kBuffers = 3;  // dy of two tiles, y of one
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  JoinedCut c{};
  c.pixels = static_cast<int>(pixels);
  c.depth = up(outs, kDepth) * kDepth;
  const int sets = up(channels, kJoinedSet);
  c.groups = up(sets, kJoinedWarpgroups);
  c.sets = up(sets, c.groups);
  c.groups = up(sets, c.sets);
  c.tiles = up(pixels, kJoinedTile);
  const int most = std::min(limits.multiprocessors / c.groups, partial_rows(pixels, channels));
  c.per = up(c.tiles, std::max(1, most));
  c.units = up(c.tiles, c.per);
  const int packs = kBuffers * c.packs() * kJoinedPlane + kJoinedAhead * kJoinedThreads +
                    2 * kJoinedWarpgroups * kJoinedSet / 8 * kJoinedFPlane +
                    c.columns() / 8 * c.weight_plane();
  c.shared = packs * kPackBytes + (2 * c.depth + 3 * c.columns()) * kFloat;
  return c;
}

// The floats of scratch for its rows of sums, (units, C', C); none where there is one unit.
inline int64_t joined_rows(const JoinedCut& cut, int channels, int outs) {
  return cut.units > 1 ? int64_t{cut.units} * outs * channels : 0;
}

inline bool joined_fits(int64_t pixels, int channels, int outs, const DeviceLimits& limits) {
  constexpr int kSlack = 256;
  const int sets = (channels + kJoinedSet - 1) / kJoinedSet;
  return outs <= kJoinedMostDepth && sets <= kJoinedWarpgroups * limits.multiprocessors &&
         joined_cut(pixels, channels, outs, limits).shared <=
             limits.shared_bytes - limits.reserved_bytes - kSlack;
}

}  // namespace engine
