// The kernel behind both directions: out (pixels, channels) = source (pixels, depth) · weightᵀ.
//
// A warp works alone on tiles of 32 pixels. Nothing but the weights is shared between threads,
// because the order of the depth, and of the output's channels, is free. The matrix unit wants of a
// thread (g, t) two adjacent k at 2t and 2t + 8 of rows g and g + 8: here the k of two steps are
// the channels 8t … 8t + 7 of a block of 32, so that a fragment is a pack of memory as it lies
// there. Likewise columns 2t and 2t + 1 of four results are channels 8t … 8t + 7 of the output.
// The weights are staged in the order in which threads want them.
//
// What a warp reads it copies ahead, over tile boundaries too, into a ring of its own, each thread
// its own packs. There is no barrier between the first tile of a unit and its last.
#pragma once

#include "kernels/gemm/epilogue.cuh"
#include "kernels/launch.cuh"

namespace engine::kernels {

constexpr int kBlockPacks = 4 * kWarp;  // of the weights of 32 channels at 32 of depth

// The channel of a block of the output that column g of result j is.
__device__ __forceinline__ int channel_of_column(int g, int j) {
  return g / 2 * kPack + 2 * j + g % 2;
}

// packs (depth blocks, group blocks, 4 j, 32 lanes) = weight (channels, depth) from channel c0 on:
// lane (g, t) holds the eight depths from 8t on of column g of result j. Zero beyond the ends.
template <class T>
__device__ __forceinline__ void stage_weight(Pack<T>* packs, const T* __restrict__ weight, int c0,
                                             int channels, int depth, int depth_blocks,
                                             int group_blocks) {
  const int count = depth_blocks * group_blocks * kBlockPacks;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int lane = i % kWarp, j = i / kWarp % 4, block = i / kBlockPacks;
    const int at = block / group_blocks, of = block - at * group_blocks;
    const int c = c0 + of * kProductBlock + channel_of_column(lane / 4, j);
    const int k = at * kProductBlock + lane % 4 * kPack;
    if (c < channels && k < depth)
      copy_async(packs + i, weight + int64_t{c} * depth + k);
    else
      store_vector(&packs[i].at[0], Pack<T>{});
  }
  commit_copies();
}

// The same from weight (depth, channels): a thread takes eight channels of two adjacent depths.
template <class T>
__device__ __forceinline__ void stage_weight_transposed(Pack<T>* packs,
                                                        const T* __restrict__ weight, int c0,
                                                        int channels, int depth, int depth_blocks,
                                                        int group_blocks) {
  constexpr int kPairs = kProductBlock / 2;
  const int column_packs = group_blocks * (kProductBlock / kPack);
  const int count = depth_blocks * column_packs * kPairs;
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int pair = i % kPairs, of = i / kPairs % column_packs, at = i / kPairs / column_packs;
    const int c = c0 + of * kPack, k = at * kProductBlock + 2 * pair;
    Pack<T> even{}, odd{};
    if (c < channels && k < depth) {
      even = load_vector<kPack>(weight + int64_t{k} * channels + c);
      odd = load_vector<kPack>(weight + int64_t{k + 1} * channels + c);
    }
    const int t = pair / 4, word = pair % 4, block = at * group_blocks + of / 4;
#pragma unroll
    for (int m = 0; m < kPack; ++m) {
      const int lane = (of % 4 * 2 + m % 2) * 4 + t;
      const Vector<T, 2> two{{even.at[m], odd.at[m]}};
      store_vector(&packs[(block * 4 + m / 2) * kWarp + lane].at[2 * word], two);
    }
  }
}

// What a warp asks of memory next: the blocks of its source and what its epilogue reads, in the
// order in which they are used.
template <class Shape, class T, class Source, class Epilogue>
class Feed {
 public:
  static constexpr ProductShape S = Shape::shape;

  __device__ __forceinline__ Feed(const Source& source, const Epilogue& epilogue,
                                  const ProductCut& cut, Pack<T>* ring, int first_tile, int end,
                                  int c0, int chunks)
      : source_(source),
        epilogue_(epilogue),
        cut_(cut),
        ring_(ring),
        tile_(first_tile),
        end_(end),
        c0_(c0),
        chunks_(chunks) {
    place();
  }

  // Asks for the next slot's worth, into the slot that was read last; one group of copies, empty
  // beyond the last tile.
  __device__ __forceinline__ void fetch(const TileThread& me) {
    if (tile_ < end_) {
      Pack<T>* const slot = slot_at(stage_);
      if (block_ < cut_.depth_blocks) {
        source_.fetch(slot, place_, me.row, block_ * kProductBlock + me.channel);
      } else {
        const int of_group = chunk_ * S.chunk + block_ - cut_.depth_blocks;
        epilogue_.fetch(slot, place_, me.row, c0_ + of_group * kProductBlock + me.channel);
      }
      advance();
    }
    commit_copies();
    stage_ = (stage_ + 1) % kProductStages;
  }

  // The slot that is read next, once it has arrived. A fetch must follow.
  __device__ __forceinline__ const Pack<T>* wait() {
    wait_copies<kProductStages - 1>();
    return slot_at(stage_);
  }

  __device__ __forceinline__ static Tile tile_at(const ProductCut& cut, int tile) {
    const int image = tile / cut.strips, strip = tile - image * cut.strips;
    return {image * cut.area + strip * kProductTile,
            min(kProductTile, cut.area - strip * kProductTile), image};
  }

 private:
  __device__ __forceinline__ Pack<T>* slot_at(int stage) const {
    return ring_ + stage * (cut_.slot / static_cast<int>(sizeof(Pack<T>)));
  }
  __device__ __forceinline__ void place() {
    if (tile_ < end_) place_ = tile_at(cut_, tile_);
  }
  __device__ __forceinline__ void advance() {
    // The chunk's epilogue follows the last block of the source, if it reads anything.
    const int blocks = cut_.depth_blocks + (epilogue_.reads() > 0 ? S.chunk : 0);
    if (++block_ < blocks) return;
    block_ = S.held > 0 ? cut_.depth_blocks : 0;
    if (++chunk_ < chunks_ && (S.held == 0 || epilogue_.reads() > 0)) return;
    block_ = chunk_ = 0;
    tile_ += S.warps;
    place();
  }

  const Source& source_;
  const Epilogue& epilogue_;
  const ProductCut& cut_;
  Pack<T>* ring_;
  int tile_, end_, c0_, chunks_, chunk_ = 0, block_ = 0, stage_ = 0;
  Tile place_{};
};

// sum += a block of the source · the weights of a chunk at that depth.
template <int Blocks, class T>
__device__ __forceinline__ void multiply_block(float (&sum)[kTileProducts][4 * Blocks][4],
                                               const Pack<T> (&a)[kTileRows],
                                               const Pack<T>* weights) {
#pragma unroll
  for (int j = 0; j < 4 * Blocks; ++j) {
    const Pack<T> w = weights[j * kWarp];
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int m = 0; m < kTileProducts; ++m)
        multiply<T>(sum[m][j], word_of(a[2 * m], 2 * step), word_of(a[2 * m + 1], 2 * step),
                    word_of(a[2 * m], 2 * step + 1), word_of(a[2 * m + 1], 2 * step + 1),
                    word_of(w, 2 * step), word_of(w, 2 * step + 1));
  }
}

// The rows of a thread in block b of a chunk.
template <int Results>
__device__ __forceinline__ void rows_of(float (&value)[kTileRows][kPack],
                                        const float (&sum)[kTileProducts][Results][4], int b) {
#pragma unroll
  for (int i = 0; i < kTileRows; ++i)
#pragma unroll
    for (int k = 0; k < kPack; ++k) value[i][k] = sum[i / 2][4 * b + k / 2][i % 2 * 2 + k % 2];
}

// The shared memory of a thread block: weights, the warps' rings, the constants of the source's and
// of the output's channels, sums.
template <class Shape, class T, class Epilogue>
struct ProductMemory {
  static constexpr int kWarps = Shape::shape.warps;

  __device__ __forceinline__ explicit ProductMemory(const ProductCut& cut)
      : weights(reinterpret_cast<Pack<T>*>(dynamic_shared)),
        rings(weights + cut.depth_blocks * (cut.columns / kProductBlock) * kBlockPacks),
        scale(reinterpret_cast<float*>(rings + kWarps * ring_packs(cut))),
        shift(scale + cut.depth_blocks * kProductBlock),
        factor(shift + cut.depth_blocks * kProductBlock),
        constants(factor + cut.depth_blocks * kProductBlock),
        sums{constants + Epilogue::kConstants * cut.columns,
             constants + (Epilogue::kConstants + Epilogue::kSums * kWarps) * cut.columns, kWarps,
             cut.columns} {}

  __device__ __forceinline__ Pack<T>* ring(const ProductCut& cut, const TileThread& me) const {
    return rings + me.warp * ring_packs(cut) + me.lane;
  }

  Pack<T>*weights, *rings;
  float *scale, *shift, *factor, *constants;
  ProductSums sums;

 private:
  __device__ __forceinline__ static int ring_packs(const ProductCut& cut) {
    return kProductStages * cut.slot / static_cast<int>(sizeof(Pack<T>));
  }
};

// The weights of it. The block must still wait for its copies and meet at a barrier.
template <class Shape, class T, class Source, class Epilogue>
__device__ __forceinline__ void stage_weights(const ProductMemory<Shape, T, Epilogue>& memory,
                                              const Source& source, const Epilogue& epilogue,
                                              const T* weight, int c0, const ProductCut& cut) {
  const int group_blocks = cut.columns / kProductBlock;
  if constexpr (Source::kBackward)
    stage_weight_transposed(memory.weights, weight, c0, epilogue.channels(), source.depth(),
                            cut.depth_blocks, group_blocks);
  else
    stage_weight(memory.weights, weight, c0, epilogue.channels(), source.depth(), cut.depth_blocks,
                 group_blocks);
}

// The constants and sums of it.
template <class Shape, class T, class Source, class Epilogue>
__device__ __forceinline__ void stage_constants(const ProductMemory<Shape, T, Epilogue>& memory,
                                                const Source& source, const Epilogue& epilogue,
                                                int c0, const ProductCut& cut) {
  constexpr int kThreads = Shape::shape.warps * kWarp;
  for (int c = threadIdx.x; c < cut.depth_blocks * kProductBlock; c += kThreads) {
    const Folded folded = c < source.depth() ? source.constants(c) : Folded{0, 0};
    memory.scale[c] = folded.scale;
    memory.shift[c] = folded.shift;
    memory.factor[c] = folded.factor;
  }
  for (int i = threadIdx.x; i < cut.columns; i += kThreads)
    epilogue.stage(memory.constants, cut.columns, i, c0 + i);
  for (int i = threadIdx.x; i < Epilogue::kSums * Shape::shape.warps * cut.columns; i += kThreads)
    memory.sums.at[i] = 0;
}

template <class Shape, class T, class Source, class Epilogue>
__global__ void __launch_bounds__(Shape::shape.warps* kWarp, Shape::shape.blocks(Source::kBackward))
    product_kernel(const __grid_constant__ Source source, const __grid_constant__ Epilogue epilogue,
                   const T* __restrict__ weight, Inputs inputs,
                   const __grid_constant__ ProductCut cut) {
  constexpr ProductShape S = Shape::shape;
  const TileThread me;
  const ProductMemory<Shape, T, Epilogue> memory(cut);
  const int c0 = blockIdx.x * cut.columns;
  stage_weights(memory, source, epilogue, weight, c0, cut);
  if (inputs == Inputs::fresh) follow();
  const int chunks =
      product_blocks(min(cut.columns, epilogue.channels() - c0), S.chunk * kProductBlock);
  const int unit = blockIdx.y, span = unit / cut.pieces;
  const int begin = span * cut.span + (unit - span * cut.pieces) * cut.per;
  const int end = min(begin + cut.per, (span + 1) * cut.span);
  Feed<Shape, T, Source, Epilogue> feed(source, epilogue, cut, memory.ring(cut, me),
                                        begin + me.warp, end, c0, chunks);
#pragma unroll 1
  for (int i = 0; i < kProductStages; ++i) feed.fetch(me);
  stage_constants(memory, source, epilogue, c0, cut);
  wait_copies<0>();
  __syncthreads();
  if (inputs == Inputs::settled) follow();

  // The next block of the source, transformed; zero beyond its channels.
  const auto take = [&](Pack<T>(&a)[kTileRows], const Tile& tile, int block, bool leaves) {
    const int c = block * kProductBlock + me.channel;
    source.load(a, feed.wait(), tile, me.row, c, memory.scale + c, memory.shift + c,
                memory.factor + c, leaves);
    feed.fetch(me);
    if (c < source.depth()) return;
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) a[i] = Pack<T>{};
  };
  const auto multiply_add = [&](auto& sum, const Pack<T>(&a)[kTileRows], int block, int chunk) {
    constexpr int kChunk = Shape::shape.chunk;
    const int at = block * (cut.columns / kProductBlock) + chunk * kChunk;
    multiply_block<kChunk>(sum, a, memory.weights + at * kBlockPacks + me.lane);
  };

  float met = 0;
  for (int t = begin + me.warp; t < end; t += S.warps) {
    const Tile tile = feed.tile_at(cut, t);
    Pack<T> a[S.held > 0 ? S.held : 1][kTileRows];
#pragma unroll
    for (int b = 0; b < S.held; ++b)
      if (b < cut.depth_blocks) take(a[b], tile, b, blockIdx.x == 0);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      float sum[kTileProducts][4 * S.chunk][4] = {};
#pragma unroll
      for (int b = 0; b < S.held; ++b)
        if (b < cut.depth_blocks) multiply_add(sum, a[b], b, chunk);
      for (int b = 0; S.held == 0 && b < cut.depth_blocks; ++b) {
        take(a[0], tile, b, blockIdx.x == 0 && chunk == 0);
        multiply_add(sum, a[0], b, chunk);
      }
#pragma unroll
      for (int b = 0; b < S.chunk; ++b) {
        float value[kTileRows][kPack];
        rows_of(value, sum, b);
        const int column = (chunk * S.chunk + b) * kProductBlock + me.channel;
        const Pack<T>* const slot = epilogue.reads() > 0 ? feed.wait() : nullptr;
        epilogue.store(value, me, tile, {c0 + column, column, t < begin + S.warps}, slot,
                       memory.constants, memory.sums);
        if (epilogue.reads() > 0) feed.fetch(me);
      }
    }
    met += static_cast<float>(tile.rows);
  }

  if (me.lane == 0) memory.sums.met[me.warp] = met;
  __syncthreads();
  for (int i = threadIdx.x; i < cut.columns; i += S.warps * kWarp)
    if (c0 + i < epilogue.channels()) epilogue.leave(memory.sums, i, c0 + i, unit);
}

template <class Shape, class T, class Source, class Epilogue>
void launch_product(const Source& source, const Epilogue& epilogue, const T* weight, Inputs inputs,
                    const ProductCut& cut, cudaStream_t stream) {
  const auto kernel = product_kernel<Shape, T, Source, Epilogue>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  launch(kernel, dim3(cut.groups, cut.units), Shape::shape.warps * kWarp, cut.shared, stream,
         source, epilogue, weight, inputs, cut);
}

}  // namespace engine::kernels
