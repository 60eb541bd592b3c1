// How the kernel that makes the operand's gradient of a pointwise convolution without its output
// (kernels/gemm/folded_dgrad.cu) cuts its work, and the memory that gradients through folded
// weights (kernels/gemm/folded.cuh) take. No CUDA: the planner asks whether a layer fits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/tiles.h"

namespace engine {

constexpr int kFoldedMostOuts = 1024;  // channels of the output

// The floats of what the gradients are made from. Folded weights, ((C' + 2 C), C) of a 16-bit type;
// three vectors (C,); sums over pixels, ((C' + C + 1), C); and the rows that units leave of them.
struct FoldedScratch {
  int64_t folded, vectors, sums, rows;

  constexpr int64_t before_sums() const { return folded + vectors; }
  constexpr int64_t total() const { return before_sums() + sums + rows; }
};
// `row`: the floats of a unit's sums, which go to their place where there is one unit.
inline FoldedScratch folded_scratch(int channels, int outs, int units, int64_t row) {
  constexpr int64_t kVectors = 3;
  return {(int64_t{outs} + 2 * channels) * channels / 2, kVectors * channels,
          (int64_t{outs} + channels + 1) * channels, units > 1 ? units * row : 0};
}

constexpr int kFoldedTile = 128;         // pixels that are multiplied together
constexpr int kFoldedChunk = 64;         // channels, of G or of f, that are staged together
constexpr int kFoldedColumns = 64;       // of the operand's channels, in a group
constexpr int kFoldedMultiplying = 512;  // threads, in four warpgroups; one more fills
constexpr int kFoldedThreads = kFoldedMultiplying + 128;
constexpr int kFoldedShares = kFoldedTile / 16;  // warps with the same channels
constexpr int kFoldedLeastStages = 4, kFoldedMostStages = 8;
constexpr int kFoldedAlignment = 1024;  // bytes: of what the copy engine swizzles

// The grid is (groups, units): a group is 64 channels of the operand, a unit a run of tiles. A tile
// is chunks of f, then of G.
struct FoldedCut {
  int pixels;
  int of_f, of_g;  // chunks
  int groups;
  int tiles, per, units;
  int stages;  // chunks that are staged
  int shared;  // bytes

  ENGINE_HOST_DEVICE constexpr int chunks() const { return of_f + of_g; }
  ENGINE_HOST_DEVICE static constexpr int stage() { return kFoldedTile * kFoldedChunk * 2; }
  // C and C' in whole chunks.
  ENGINE_HOST_DEVICE constexpr int operands() const { return of_f * kFoldedChunk; }
  ENGINE_HOST_DEVICE constexpr int depth() const { return of_g * kFoldedChunk; }
  // The packs of the folded weights of eight columns: of G, then twice of f.
  ENGINE_HOST_DEVICE constexpr int weight_plane() const { return depth() + 2 * operands() + 1; }
};

inline FoldedCut folded_cut(int64_t pixels, int channels, int outs, const DeviceLimits& limits) {
  constexpr int kPackBytes = 16, kSlack = 256, kVectors = 6, kFillingPacks = 128 * 8;
  const auto up = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  FoldedCut c{};
  c.pixels = static_cast<int>(pixels);
  c.of_f = up(channels, kFoldedChunk);
  c.of_g = up(outs, kFoldedChunk);
  c.groups = up(channels, kFoldedColumns);
  c.tiles = up(pixels, kFoldedTile);
  const int most = std::min(limits.multiprocessors / c.groups, partial_rows(pixels, channels));
  c.per = up(c.tiles, std::max(1, most));
  c.units = up(c.tiles, c.per);
  // Constants of the group and, to make f, of all channels; sums of the norm, and of f.
  const int floats = kVectors * kFoldedColumns + 2 * c.operands() +
                     2 * kFoldedShares * kFoldedColumns + c.of_f * kFillingPacks;
  const int fixed = kFoldedAlignment + kFoldedColumns / 8 * c.weight_plane() * kPackBytes +
                    floats * int{sizeof(float)} + ring_bytes(kFoldedMostStages);
  const int room = limits.shared_bytes - limits.reserved_bytes - kSlack - fixed;
  c.stages = std::clamp(room / FoldedCut::stage(), 0, kFoldedMostStages);
  c.shared = fixed + c.stages * FoldedCut::stage();
  return c;
}

inline FoldedScratch folded_scratch(const FoldedCut& cut, int channels, int outs) {
  return folded_scratch(channels, outs, cut.units, channels);
}

inline bool folded_fits(int64_t pixels, int channels, int outs, const DeviceLimits& limits) {
  const FoldedCut cut = folded_cut(pixels, channels, outs, limits);
  return outs <= kFoldedMostOuts && channels < outs && cut.groups <= limits.multiprocessors &&
         cut.stages >= kFoldedLeastStages;
}

}  // namespace engine
