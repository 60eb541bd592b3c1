// A network's first convolution, the gradient of its weight: dW[o][e] = Σ over outputs of
// dy(output)[o] · x(element e of the output's window), with dy made once for each output. A
// persistent block holds its share of dW in registers over all of its tiles. While it multiplies
// one, the image under the next is on its way to shared memory, and G and y of it to registers.
// Products are over sixteen outputs: dy comes from a staged tile, transposed; of the window a
// thread reads two elements at each of two neighbouring outputs and changes them round in
// registers, so nothing of it is laid out anew.
// For each output it moves, in values of T, C' (G), C' more behind a norm (y), and twelve of the
// image. Blocks leave their sums as rows, 4 bytes for each weight and unit, written and read.
#include "kernels/gemm/source.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge_rows.cuh"
#include "kernels/stem/tile.cuh"

namespace engine::kernels {
namespace {

constexpr int kWarps = kStemWgradThreads / kWarp;

// Columns outs, eight to a pack; the window's elements in pairs of blocks, each of a product's
// sixteen columns.
template <class T, int K, int Outs>
struct StemWgradKernel {
  static constexpr int kPacks = Outs / kPack, kRows = Outs / 16;
  static constexpr int kPairs = stem_pairs(K), kElementWarps = stem_element_warps(K);
  static constexpr int kPositionWarps = kWarps / kElementWarps;
  static constexpr int kStep = kStemWgradThreads / kPacks;  // positions that are staged together
  static constexpr int kPitch = stem_dy_pitch(Outs);
  using Sums = float[kRows][2 * kStemMostPairs][4];
  struct Batch {
    Pack<T> grad[kStemTogether], y[kStemTogether];
    uint32_t inside = 0;  // which of them are outputs
  };

  const GradientView<T>& dy;
  const StemCut& cut;
  StemThread me;
  int c0 = blockIdx.x * Outs;
  int element_warp = me.warp % kElementWarps, position_warp = me.warp / kElementWarps;
  // Of a staged tile of dy: a pack of every so many positions.
  int pack = me.index % kPacks, at = me.index / kPacks;
  int c = c0 + pack * kPack;
  bool stages_dy = at < kStep && c < dy.channels;
  // The shared memory: the image under two tiles, and dy of two.
  T* images = reinterpret_cast<T*>(dynamic_shared);
  T* gradients = images + 2 * cut.staged();

  __device__ __forceinline__ T* image(int step) const { return images + step % 2 * cut.staged(); }
  __device__ __forceinline__ T* gradient(int step) const {
    return gradients + step % 2 * cut.positions() * kPitch;
  }
  // Channels that are not there stay zero.
  __device__ __forceinline__ void clear() const {
    for (int i = me.index; i < 2 * cut.positions() * kPitch / kPack; i += me.count)
      store_vector(gradients + i * kPack, Pack<T>{});
  }

  __device__ __forceinline__ void read(Batch& batch, int tile) const {
    const StemPlace place = stem_place(cut, tile);
    const int64_t first =
        (int64_t{place.image} * cut.out_height + place.y) * cut.out_width + place.x;
    const T* const grad = dy.grad + first * dy.pitch + c;
    const T* const y = dy.x + first * dy.pitch + c;
    batch.inside = 0;
#pragma unroll
    for (int i = 0; i < kStemTogether; ++i) {
      const int position = at + i * kStep, row = position / cut.columns;
      const int column = position - row * cut.columns;
      const bool inside = stages_dy && row < place.rows && column < place.columns;
      const int pixel = inside ? row * cut.out_width + column : 0;
      batch.grad[i] = load_if(inside, row_at(grad, pixel, dy.pitch));
      batch.y[i] = load_if(inside && dy.normed(), row_at(y, pixel, dy.pitch));
      batch.inside |= uint32_t{inside} << i;
    }
  }
  __device__ __forceinline__ void leave(const Batch& batch, int step, const float (&scale)[kPack],
                                        const float (&shift)[kPack]) const {
    if (!stages_dy) return;
    T* const to = gradient(step) + pack * kPack;
#pragma unroll
    for (int i = 0; i < kStemTogether; ++i) {
      const int position = at + i * kStep;
      if (position >= cut.positions()) break;
      Pack<T> made = batch.grad[i];
      if (dy.normed()) made = complete_pack(batch.grad[i], batch.y[i], scale, shift);
      if (!(batch.inside >> i & 1)) made = Pack<T>{};
      store_vector(to + position * kPitch, made);
    }
  }

  // Where the thread's elements of a pair of blocks lie, from an output's window on.
  __device__ __forceinline__ int element_at(int pair) const {
    const int of_block = me.g % 4 * 2;
    const int block = min(2 * pair + me.g / 4, stem_blocks(K) - 1);
    return block / stem_row_blocks(K) * cut.pitch() + block % stem_row_blocks(K) * kStemBlock +
           of_block;
  }
  __device__ __forceinline__ void multiply(Sums& sum, int step) const {
    constexpr int kNext = kStemStride * kStemChannels;  // values from one output's window on
    int elements[kStemMostPairs];
#pragma unroll
    for (int i = 0; i < kStemMostPairs; ++i)
      elements[i] = element_at(min(element_warp * kStemMostPairs + i, kPairs - 1));
    const uint32_t rows = banded::shared_address(
        gradient(step) + (me.lane / 16 * 8 + me.lane % 8) * kPitch + me.lane % 16 / 8 * 8);
#pragma unroll 1
    for (int first = position_warp * kStemStep; first < cut.positions();
         first += kPositionWarps * kStemStep) {
      const int row = first / cut.columns, column = first - row * cut.columns;
      const T* const window =
          image(step) + row * kStemStride * cut.pitch() + stem_value(K, column + 2 * me.t);
      uint32_t a[kRows][4];
#pragma unroll
      for (int m = 0; m < kRows; ++m)
        banded::load_transposed(
            a[m], rows + (first * kPitch + m * 16) * static_cast<uint32_t>(sizeof(T)));
#pragma unroll
      for (int i = 0; i < kStemMostPairs; ++i) {
        const T* const from = window + elements[i];
        uint32_t word[4];  // of outputs 2t, 2t + 1, 2t + 8, 2t + 9
#pragma unroll
        for (int j = 0; j < 4; ++j)
          word[j] = *reinterpret_cast<const uint32_t*>(from + (j / 2 * 8 + j % 2) * kNext);
#pragma unroll
        for (int second = 0; second < 2; ++second) {
          const uint32_t selected = second ? 0x7632 : 0x5410;
          const uint32_t b0 = __byte_perm(word[0], word[1], selected);
          const uint32_t b1 = __byte_perm(word[2], word[3], selected);
#pragma unroll
          for (int m = 0; m < kRows; ++m) banded::multiply<T>(sum[m][2 * i + second], a[m], b0, b1);
        }
      }
    }
  }

  // row (C', K, K, 3) = the block's outs of dW: the warps add up in turn.
  __device__ __forceinline__ void leave(const Sums& sum, float* row) const {
    constexpr int kElements = 2 * kPairs * kStemBlock;
    float* const buffer = reinterpret_cast<float*>(dynamic_shared);  // (outs, elements)
#pragma unroll 1
    for (int turn = 0; turn < kPositionWarps; ++turn) {
      __syncthreads();
      if (position_warp != turn) continue;
#pragma unroll
      for (int i = 0; i < kStemMostPairs; ++i) {
        const int pair = element_warp * kStemMostPairs + i;
        if (pair >= kPairs) break;
#pragma unroll
        for (int m = 0; m < kRows; ++m)
#pragma unroll
          for (int second = 0; second < 2; ++second)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const int o = m * 16 + j / 2 * 8 + me.g;
              const int element = pair * 16 + (2 * me.t + j % 2) * 2 + second;
              float& total = buffer[o * kElements + element];
              total = (turn == 0 ? 0.f : total) + sum[m][2 * i + second][j];
            }
      }
    }
    __syncthreads();
    for (int i = me.index; i < Outs * kElements; i += me.count) {
      const int o = i / kElements, at = i % kElements;
      const int element = stem_element(K, at / kStemBlock, at % kStemBlock);
      if (element >= 0 && c0 + o < dy.channels)
        row[(c0 + o) * stem_window(K) + element] = buffer[i];
    }
  }
};

template <class T, int K, int Outs>
__global__ void __launch_bounds__(kStemWgradThreads, 1)
    stem_wgrad_kernel(float* __restrict__ rows, const __grid_constant__ GradientView<T> dy,
                      const T* __restrict__ image, const __grid_constant__ StemCut cut) {
  using Kernel = StemWgradKernel<T, K, Outs>;
  const Kernel k{dy, cut};
  k.clear();
  __syncthreads();
  follow();
  const int begin = blockIdx.y * cut.per, steps = min(cut.per, cut.tiles - begin);
  copy_tile(k.image(0), image, cut, begin, k.me);
  commit_copies();
  typename Kernel::Batch batch;
  k.read(batch, begin);
  float scale[kPack] = {}, shift[kPack] = {};
  if (k.stages_dy) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const Folded folded = GradientSource<T>{dy, nullptr}.constants(k.c + i);
      scale[i] = folded.scale;
      shift[i] = folded.shift;
    }
  }
  typename Kernel::Sums sum = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    k.leave(batch, step, scale, shift);
    wait_copies<0>();
    __syncthreads();
    if (step + 1 < steps) {
      k.read(batch, begin + step + 1);
      copy_tile(k.image(step + 1), image, cut, begin + step + 1, k.me);
    }
    commit_copies();
    k.multiply(sum, step);
  }
  k.leave(sum, rows + int64_t{blockIdx.y} * dy.channels * stem_window(K));
}

template <class T, int K, int Outs>
void run(float* dweight, const GradientView<T>& dy, const T* image, float* rows, const StemCut& cut,
         cudaStream_t stream) {
  const auto kernel = stem_wgrad_kernel<T, K, Outs>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  launch(kernel, dim3(stem_groups(dy.channels), cut.units), kStemWgradThreads, cut.shared, stream,
         rows, dy, image, cut);
  merge_rows(dweight, rows, cut.units, int64_t{dy.channels} * stem_window(K), stream);
}
template <class T, int K>
void run(float* dweight, const GradientView<T>& dy, const T* image, float* rows, const StemCut& cut,
         cudaStream_t stream) {
  switch (stem_columns(dy.channels)) {
    case 32: return kernels::run<T, K, 32>(dweight, dy, image, rows, cut, stream);
    case 48: return kernels::run<T, K, 48>(dweight, dy, image, rows, cut, stream);
    default: return kernels::run<T, K, 64>(dweight, dy, image, rows, cut, stream);
  }
}

}  // namespace

template <class T>
void StemWgrad<T>::run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in,
                       int kernel, float* rows, cudaStream_t stream) {
  const StemCut cut =
      stem_wgrad_cut(in.batch, in.height, in.width, kernel, dy.channels, device_limits());
  if (kernel == 3)
    kernels::run<T, 3>(dweight, dy, in.x, rows, cut, stream);
  else
    kernels::run<T, 7>(dweight, dy, in.x, rows, cut, stream);
}

template struct StemWgrad<__half>;
template struct StemWgrad<__nv_bfloat16>;

}  // namespace engine::kernels
