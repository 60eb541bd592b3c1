// How the forward of a pointwise convolution whose operand the copy engine brings
// (kernels/gemm/streamed.cu) cuts its work, and the memory that it takes. No CUDA: the planner asks
// whether a layer fits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kStreamedTile = 128;         // pixels that are multiplied together
constexpr int kStreamedChunk = 64;         // channels of the operand that are staged together
constexpr int kStreamedMostSets = 4;       // of 64 channels of the output, in a group
constexpr int kStreamedMultiplying = 512;  // threads, in four warpgroups
constexpr int kStreamedShares = kStreamedTile / 16;  // warps with the same channels
constexpr int kStreamedLeastStages = 4, kStreamedMostStages = 8;
constexpr int kStreamedAlignment = 1024;  // bytes: of what the copy engine swizzles

// Warpgroups that fill stages: two where four others have the registers for it.
constexpr int streamed_filling(int sets) {
  return sets <= 2 ? 2 : 1;
}
constexpr int streamed_threads(int sets) {
  return kStreamedMultiplying + 128 * streamed_filling(sets);
}

// The grid is (groups, units): a group is some sets of channels, a unit a run of tiles.
struct StreamedCut {
  int pixels, depth, chunks;  // the depth, C
  int sets, groups;
  int tiles, per, units;
  int stages;  // chunks that are staged
  int shared;  // bytes

  ENGINE_HOST_DEVICE constexpr int columns() const { return sets * 64; }
  // The bytes of a stage, and of the weights of a chunk.
  ENGINE_HOST_DEVICE static constexpr int stage() { return kStreamedTile * kStreamedChunk * 2; }
  ENGINE_HOST_DEVICE constexpr int weights() const { return columns() * kStreamedChunk * 2; }
};

inline StreamedCut streamed_cut(int64_t pixels, int channels, int outs,
                                const DeviceLimits& limits) {
  constexpr int kSlack = 256, kSums = 3, kBarriers = 3, kBarrier = 8;
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  StreamedCut c{};
  c.pixels = static_cast<int>(pixels);
  c.depth = channels;
  c.chunks = up(channels, kStreamedChunk);
  const int sets = up(outs, 64);
  c.groups = up(sets, kStreamedMostSets);
  c.sets = up(sets, c.groups);
  c.groups = up(sets, c.sets);
  c.tiles = up(pixels, kStreamedTile);
  const int most = std::min(limits.multiprocessors / c.groups, partial_rows(pixels, outs));
  c.per = up(c.tiles, std::max(1, most));
  c.units = up(c.tiles, c.per);
  const int floats =
      2 * c.chunks * kStreamedChunk + kSums * kStreamedShares * c.columns() + kStreamedShares;
  const int fixed = kStreamedAlignment + c.chunks * c.weights() + floats * int{sizeof(float)} +
                    kBarriers * kStreamedMostStages * kBarrier;
  const int room = limits.shared_bytes - limits.reserved_bytes - kSlack - fixed;
  c.stages = std::clamp(room / StreamedCut::stage(), 0, kStreamedMostStages);
  c.shared = fixed + c.stages * StreamedCut::stage();
  return c;
}

// `area`: pixels of an image, if the operand has a gate, of which a tile meets two at most.
inline bool streamed_fits(int64_t pixels, int64_t area, int channels, int outs,
                          const DeviceLimits& limits) {
  const StreamedCut cut = streamed_cut(pixels, channels, outs, limits);
  return area >= kStreamedTile && cut.groups <= limits.multiprocessors &&
         cut.stages >= kStreamedLeastStages;
}

}  // namespace engine
