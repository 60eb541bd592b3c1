// The gradient of an operand behind a product of little depth: G (pixels, channels) from
// df = dy (pixels, depth) · weight, with its sums.
//
// A warp keeps a block of 32 channels while its thread block goes through a run of pixels in steps:
// their constants and sums stay in registers, and the sums are folded once. All threads of the
// block transform the source of a step into a tile in shared memory. A thread takes eight channels
// of rows g and g + 8 of sixteen, which are two fragments of the matrix unit's (product.cuh says
// why), so a tile is (sixteen rows, blocks of the depth, 2, lanes) fragments of four words. What it
// reads it copies a step ahead, into places of its own; what a warp's epilogue reads of the next
// step waits in registers. There are two tiles, hence one barrier a step.
#pragma once

#include "kernels/gemm/product.cuh"

namespace engine::kernels {

constexpr int kKeptThreads = kKeptWarps * kWarp;
constexpr int kKeptDepthBlocks = kKeptDepth / kProductBlock;
constexpr int kKeptRows = kProductBlock / 8;  // rows of a thread, in its warp's part of a step

// A pack in four registers, as two halves: its elements would take one each.
struct PackWords {
  uint2 half[2];
};
template <class T>
__device__ __forceinline__ void half_to_floats(float (&out)[kHalfPack], const uint2& half) {
  to_floats(out, reinterpret_cast<const Vector<T, kHalfPack>&>(half));
}
template <class T>
__device__ __forceinline__ uint2 half_of_floats(const float (&in)[kHalfPack]) {
  const Vector<T, kHalfPack> half = vector_of<T>(in);
  return reinterpret_cast<const uint2&>(half);
}
__device__ __forceinline__ PackWords load_words(const void* from) {
  const uint4 words = *static_cast<const uint4*>(from);
  return {make_uint2(words.x, words.y), make_uint2(words.z, words.w)};
}
__device__ __forceinline__ void store_words(void* to, const PackWords& w) {
  *static_cast<uint4*>(to) = make_uint4(w.half[0].x, w.half[0].y, w.half[1].x, w.half[1].y);
}

// The shared memory of a thread block.
template <class T>
struct KeptMemory {
  Pack<T>* weights;
  uint4* tiles;
  Pack<T>* ring;
  float *scale, *shift;  // of the source's channels
  float* constants;      // of the group's channels
  int tile;              // fragments of a tile

  __device__ __forceinline__ KeptMemory(const KeptCut& cut, int streams)
      : weights(reinterpret_cast<Pack<T>*>(dynamic_shared)),
        tiles(reinterpret_cast<uint4*>(weights + kKeptDepthBlocks * cut.blocks * kBlockPacks)),
        ring(reinterpret_cast<Pack<T>*>(tiles + 2 * cut.rows * (kKeptDepth / kPack))),
        scale(reinterpret_cast<float*>(ring + streams * cut.rows * (kKeptDepth / kPack))),
        shift(scale + kKeptDepth),
        constants(shift + kKeptDepth),
        tile(cut.rows * (kKeptDepth / kPack)) {}
};

// What one thread copies and transforms: a pack of channels of two rows of every row group.
template <class T>
class KeptLoader {
 public:
  __device__ __forceinline__ KeptLoader(const GradientSource<T>& source, const KeptCut& cut,
                                        const KeptMemory<T>& memory, int end)
      : source_(source), cut_(cut), end_(end), ring_(memory.ring + threadIdx.x) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    c_ = warp % kKeptDepthBlocks * kProductBlock + lane % 4 * kPack;
    row_ = warp / kKeptDepthBlocks * 16 + lane / 4;
    fragments_ = memory.tiles + warp * (2 * kWarp) + lane;
    scale_ = memory.scale + c_;
    shift_ = memory.shift + c_;
    if (c_ >= source.depth()) end_ = 0;  // zeros only
  }

  // Asks for the step that begins with this pixel.
  __device__ __forceinline__ void copy(int pixel) const {
    for (int of = 0; of < cut_.row_groups; ++of)
#pragma unroll
      for (int i = 0; i < 2; ++i) ask(pixel + row_ + of * kProductBlock + 8 * i, 2 * of + i);
    commit_copies();
  }

  // The step that begins with this pixel goes to the tile that begins `tile` fragments from the
  // first on; zero beyond the last pixel and channel. Asks for the next step, `rows` pixels on, in
  // its place. `leaves`: nobody else stores dy.
  __device__ __forceinline__ void transform(int tile, int pixel, int rows, bool leaves) const {
    float scale[kPack], shift[kPack];
    load_floats(scale, scale_);
    load_floats(shift, shift_);
    for (int of = 0; of < cut_.row_groups; ++of) {
      Pack<T> value[2]{};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = pixel + row_ + of * kProductBlock + 8 * i;
        const Pack<T>* const raw = place(2 * of + i);
        if (row < end_) {
          value[i] =
              source_.dy.normed() ? complete_pack(raw[0], raw[kKeptThreads], scale, shift) : raw[0];
          if (leaves) store_vector(row_at(source_.dense + c_, row, source_.dy.channels), value[i]);
        }
        ask(row + rows, 2 * of + i);
      }
#pragma unroll
      for (int k = 0; k < 2; ++k)
        fragments_[tile + (of * (2 * kKeptWarps) + k) * kWarp] =
            make_uint4(word_of(value[0], 2 * k), word_of(value[1], 2 * k),
                       word_of(value[0], 2 * k + 1), word_of(value[1], 2 * k + 1));
    }
    commit_copies();
  }

 private:
  // Where the thread's row number i of a step is copied to: G, and x a plane of all threads behind.
  __device__ __forceinline__ Pack<T>* place(int i) const {
    return ring_ + (source_.dy.normed() ? 2 * i : i) * kKeptThreads;
  }
  __device__ __forceinline__ void ask(int row, int i) const {
    if (row >= end_) return;
    const GradientView<T>& dy = source_.dy;
    copy_async(place(i), row_at(dy.grad + c_, row, dy.pitch));
    if (dy.normed()) copy_async(place(i) + kKeptThreads, row_at(dy.x + c_, row, dy.pitch));
  }

  const GradientSource<T>& source_;
  const KeptCut& cut_;
  int end_;  // pixels of the unit, or none
  int c_, row_;
  Pack<T>* ring_;
  uint4* fragments_;
  const float *scale_, *shift_;
};

// The block of channels that a warp keeps, and its share of a step's rows. `Leaves`: f too.
template <class T, class Act, bool Leaves>
class KeptWarp {
 public:
  __device__ __forceinline__ KeptWarp(const SinkEpilogue<T>& sink, const KeptCut& cut,
                                      const KeptMemory<T>& memory, int end)
      : sink_(sink),
        cut_(cut),
        end_(end),
        column_(threadIdx.x / kWarp % cut.blocks * kProductBlock + threadIdx.x % 4 * kPack),
        c_(blockIdx.x * cut.blocks * kProductBlock + column_),
        constants_(memory.constants) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    row_group_ = warp / cut.blocks;
    busy_ = row_group_ < cut.row_groups;
    stores_ = busy_ && c_ < sink.in.channels;
    row_ = row_group_ * kProductBlock + lane / 4;
    weights_ =
        reinterpret_cast<const uint4*>(memory.weights) + warp % cut.blocks * kBlockPacks + lane;
    fragments_ = memory.tiles + row_group_ * (kProductBlock * kKeptDepth / kPack) + lane;
  }

  // Loads what the epilogue reads of the step that begins with this pixel; beyond the last one, of
  // the last one.
  __device__ __forceinline__ void load(int pixel) {
    if (!stores_ || pixel >= end_) return;
#pragma unroll
    for (int i = 0; i < kKeptRows; ++i) {
      const int row = min(pixel + row_ + 8 * i, end_ - 1);
      x_[i] = load_words(row_at(sink_.in.x + c_, row, sink_.in.pitch));
      old_[i] = sink_.adds() ? load_words(row_at(sink_.sink.grad + c_, row, sink_.sink.pitch))
                             : PackWords{};
    }
  }

  // The products of the tile that begins `tile` fragments from the first on, whose first pixel is
  // `pixel`, go where they belong; then what the next step, `rows` pixels on, reads is loaded.
  __device__ __forceinline__ void step(int tile, int pixel, int rows) {
    if (!busy_) return;
    float df[kKeptRows / 2][4][4] = {};
#pragma unroll
    for (int b = 0; b < kKeptDepthBlocks; ++b) multiply_add(df, tile, b);
#pragma unroll
    for (int half = 0; half < 2; ++half) back_through(df, half);
#pragma unroll
    for (int i = 0; i < kKeptRows; ++i) {
      const int row = pixel + row_ + 8 * i;
      if (row >= end_ || !stores_) continue;
      store_words(row_at(sink_.sink.grad + c_, row, sink_.sink.pitch), old_[i]);
      if constexpr (Leaves) store_words(row_at(sink_.f + c_, row, sink_.in.channels), x_[i]);
    }
    load(pixel + rows);
  }

  // The sums of the unit to its row. All threads of the block call it; `buffer` holds two floats
  // for each of the group's channels and row groups, and may still be read.
  __device__ __forceinline__ void leave(float* buffer, int row_groups) {
    const int columns = cut_.blocks * kProductBlock;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float t = rows_sum(sum_[k / kHalfPack].t[k % kHalfPack]),
                  t_centred = rows_sum(sum_[k / kHalfPack].t_centred[k % kHalfPack]);
      if (!busy_ || threadIdx.x % kWarp >= 4) continue;
      buffer[row_group_ * columns + column_ + k] = t;
      buffer[(row_groups + row_group_) * columns + column_ + k] = t_centred;
    }
    __syncthreads();
    leave_norm_sums(sink_.partials, buffer, row_groups, columns, blockIdx.x * columns, sink_.in,
                    threadIdx.x, kKeptThreads);
  }

 private:
  // += the products at block b of the depth.
  __device__ __forceinline__ void multiply_add(float (&sum)[kKeptRows / 2][4][4], int tile,
                                               int b) const {
    uint4 a[kKeptRows / 2][2];
#pragma unroll
    for (int m = 0; m < kKeptRows / 2; ++m)
#pragma unroll
      for (int k = 0; k < 2; ++k)
        a[m][k] = fragments_[tile + ((m * kKeptDepthBlocks + b) * 2 + k) * kWarp];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 w = weights_[(b * cut_.blocks * 4 + j) * kWarp];
#pragma unroll
      for (int m = 0; m < kKeptRows / 2; ++m) {
        multiply<T>(sum[m][j], a[m][0].x, a[m][0].y, a[m][0].z, a[m][0].w, w.x, w.y);
        multiply<T>(sum[m][j], a[m][1].x, a[m][1].y, a[m][1].z, a[m][1].w, w.z, w.w);
      }
    }
  }
  __device__ __forceinline__ OperandConstants<kHalfPack> constants(int half) const {
    return {constants_, cut_.blocks * kProductBlock, column_ + half * kHalfPack};
  }
  // Half of the thread's channels: G takes the place of what was there before, and f that of x.
  __device__ __forceinline__ void back_through(const float (&all)[kKeptRows / 2][4][4], int half) {
    const OperandConstants<kHalfPack> of = constants(half);
#pragma unroll
    for (int i = 0; i < kKeptRows; ++i) {
      float df[kHalfPack], x[kHalfPack], old[kHalfPack], value[kHalfPack], h[kHalfPack];
#pragma unroll
      for (int k = 0; k < kHalfPack; ++k) df[k] = all[i / 2][2 * half + k / 2][i % 2 * 2 + k % 2];
      half_to_floats<T>(x, x_[i].half[half]);
      half_to_floats<T>(old, old_[i].half[half]);
      sum_[half].take(value, h, df, x, old, of, Act{});
      old_[i].half[half] = half_of_floats<T>(value);
      if constexpr (Leaves) x_[i].half[half] = half_of_floats<T>(h);
    }
  }
  const SinkEpilogue<T>& sink_;
  const KeptCut& cut_;
  int end_, column_, c_;  // pixels of the unit; the thread's first channel
  const float* constants_;
  SinkSums<kHalfPack> sum_[2];
  bool busy_, stores_;
  int row_group_, row_;  // the thread's first row of a step
  const uint4 *weights_, *fragments_;
  PackWords x_[kKeptRows] = {}, old_[kKeptRows] = {};  // of the step that is next
};

template <class T, class Act, bool Leaves>
__global__ void __launch_bounds__(kKeptThreads, kKeptBlocks)
    kept_kernel(const __grid_constant__ GradientSource<T> source,
                const __grid_constant__ SinkEpilogue<T> sink, const T* __restrict__ weight,
                const __grid_constant__ KeptCut cut) {
  follow();
  const KeptMemory<T> memory(cut, source.dy.normed() ? 2 : 1);
  const int columns = cut.blocks * kProductBlock;
  const int begin = blockIdx.y * cut.per;
  const int end = min(begin + cut.per, static_cast<int>(sink.in.pixels()));
  const KeptLoader<T> loader(source, cut, memory, end);
  KeptWarp<T, Act, Leaves> warp(sink, cut, memory, end);
  loader.copy(begin);
  warp.load(begin);
  stage_weight_transposed(memory.weights, weight, blockIdx.x * columns, sink.in.channels,
                          source.depth(), kKeptDepthBlocks, cut.blocks);
  if (static_cast<int>(threadIdx.x) < columns)
    sink.stage(memory.constants, columns, threadIdx.x, blockIdx.x * columns + threadIdx.x);
  if (threadIdx.x < kKeptDepth) {
    const int c = threadIdx.x;
    const Folded folded = c < source.depth() ? source.constants(c) : Folded{0, 0};
    memory.scale[c] = folded.scale;
    memory.shift[c] = folded.shift;
  }
  __syncthreads();
  const bool leaves = blockIdx.x == 0 && source.dense && source.dy.normed();
  int tile = 0;
  for (int pixel = begin; pixel < end; pixel += cut.rows) {
    wait_copies<0>();
    loader.transform(tile, pixel, cut.rows, leaves);
    __syncthreads();
    warp.step(tile, pixel, cut.rows);
    tile = memory.tile - tile;
  }
  warp.leave(reinterpret_cast<float*>(memory.tiles), cut.row_groups);
}

// The operand is behind ReLU or SiLU and has no gate.
template <class T>
void launch_kept(const GradientSource<T>& source, const SinkEpilogue<T>& sink, const T* weight,
                 const KeptCut& cut, cudaStream_t stream) {
  const auto with = [&](auto act) {
    using Act = decltype(act);
    const auto kernel = sink.f ? kept_kernel<T, Act, true> : kept_kernel<T, Act, false>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
    launch(kernel, dim3(cut.groups, cut.units), kKeptThreads, cut.shared, stream, source, sink,
           weight, cut);
  };
  if (sink.in.act == Activation::silu)
    with(Through<Activation::silu>{});
  else
    with(Through<Activation::relu>{});
}

}  // namespace engine::kernels
