// How the forward of a pointwise convolution whose operand the copy engine brings
// (kernels/gemm/streamed.cu) cuts its work, and the memory that it takes. No CUDA: the planner asks
// whether a layer fits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kStreamedTile = 128;    // pixels that are multiplied together
constexpr int kStreamedChunk = 64;    // channels of the operand that are staged together
constexpr int kStreamedSet = 64;      // channels of the output, the rows of a product
constexpr int kStreamedMostSets = 4;  // in a group
constexpr int kStreamedLeastStages = 3, kStreamedMostStages = 8;
// The ring's, and that of the weights; what follows them is aligned.
constexpr int kStreamedBarrierBytes = ring_bytes(kStreamedMostStages) + 16;
constexpr int kStreamedAlignment = 1024;  // bytes: of what the copy engine swizzles

// Warpgroups that multiply, the parts of a tile that those of one set have, and warpgroups that
// fill stages: two where the others leave them the registers.
ENGINE_HOST_DEVICE constexpr int streamed_multiplying(int sets) {
  return sets == 3 ? 3 : 4;
}
ENGINE_HOST_DEVICE constexpr int streamed_parts(int sets) {
  return streamed_multiplying(sets) / sets;
}
constexpr int streamed_filling(int sets) {
  return sets == 4 ? 1 : 2;
}
constexpr int streamed_threads(int sets) {
  return 128 * (streamed_multiplying(sets) + streamed_filling(sets));
}

// Pixels of a part that are stored together. A warpgroup has two boxes of them, of which one is
// read while the other is written.
constexpr int kStreamedBoxes = 2;
ENGINE_HOST_DEVICE constexpr int streamed_box(int sets) {
  constexpr int kMost = 32;
  const int half = kStreamedTile / streamed_parts(sets) / kStreamedBoxes;
  return half < kMost ? half : kMost;
}

// The grid is (groups, units): a group is some sets of channels, a unit a run of tiles.
struct StreamedCut {
  int pixels, depth, chunks;  // the depth, C
  int sets, groups;
  int tiles, per, units;
  int stages;  // chunks that are staged
  int shared;  // bytes

  ENGINE_HOST_DEVICE constexpr int columns() const { return sets * kStreamedSet; }
  // The bytes of a stage, of the weights of a chunk, and of all boxes of results.
  ENGINE_HOST_DEVICE static constexpr int stage() { return kStreamedTile * kStreamedChunk * 2; }
  ENGINE_HOST_DEVICE constexpr int weights() const { return columns() * kStreamedChunk * 2; }
  ENGINE_HOST_DEVICE constexpr int results() const {
    return streamed_multiplying(sets) * kStreamedBoxes * streamed_box(sets) * kStreamedSet * 2;
  }
};

// Groups of as many sets as leave room for some stages.
inline StreamedCut streamed_cut(int64_t pixels, int channels, int outs,
                                const DeviceLimits& limits) {
  constexpr int kSlack = 256, kSums = 3;
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  StreamedCut c{};
  c.pixels = static_cast<int>(pixels);
  c.depth = channels;
  c.chunks = up(channels, kStreamedChunk);
  c.tiles = up(pixels, kStreamedTile);
  const int sets = up(outs, kStreamedSet);
  for (int most = kStreamedMostSets; most > 0 && c.stages < kStreamedLeastStages; --most) {
    c.groups = up(sets, most);
    c.sets = up(sets, c.groups);
    c.groups = up(sets, c.sets);
    const int parts = streamed_parts(c.sets);
    const int floats = 2 * c.chunks * kStreamedChunk + parts * (kSums * c.columns() + 1);
    const int fixed = kStreamedAlignment + c.chunks * c.weights() + c.results() +
                      floats * int{sizeof(float)} + kStreamedBarrierBytes;
    const int room = limits.shared_bytes - limits.reserved_bytes - kSlack - fixed;
    c.stages = std::clamp(room / StreamedCut::stage(), 0, kStreamedMostStages);
    c.shared = fixed + c.stages * StreamedCut::stage();
  }
  const int most = std::min(limits.multiprocessors / c.groups, partial_rows(pixels, outs));
  c.per = up(c.tiles, std::max(1, most));
  c.units = up(c.tiles, c.per);
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
