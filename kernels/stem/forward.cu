// A network's first convolution, forward: y = W · x for an image of three channels, stride 2, and
// the statistics of y taken in the epilogue. A persistent block keeps its weights in shared memory;
// while it multiplies a tile, the image under the next one is on its way. Rows of a product are 64
// outputs; a thread takes its part of them from the staged image into registers, pairs of values
// that lie together, in which eight outputs and four pairs of a window meet every bank once.
// For each output it moves, in values of T, C' and twelve of the image; what tiles share of it
// comes from L2.
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/results.cuh"
#include "kernels/stem/tile.cuh"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {
namespace {

constexpr int kAtOnce = kStemForwardThreads / kWarpgroup;  // products

template <class T, int K, int Tiles>
struct StemForwardKernel {
  static constexpr int kColumns = 8 * Tiles, kWeightPacks = stem_weight_packs(kColumns);
  static constexpr int kSteps = stem_steps(K);
  using Sums = Statistics<2 * Tiles>;
  using Rows = uint32_t[kSteps][4];
  using Results = float[Tiles][4];

  const SliceView<T>& out;
  const StemCut& cut;
  StemThread me;
  int warpgroup = me.warp / (kWarpgroup / kWarp);
  int c0 = blockIdx.x * kColumns;
  // The shared memory: weights, and the image under two tiles.
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(dynamic_shared);
  T* stages = reinterpret_cast<T*>(weights + 2 * kSteps * kWeightPacks);

  __device__ __forceinline__ T* stage(int step) const { return stages + step % 2 * cut.staged(); }

  // weights (blocks of the window, columns) = weight (C', K, K, 3); zero where there is nothing.
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    for (int i = me.index; i < 2 * kSteps * kColumns; i += me.count) {
      const int block = i / kColumns, column = i % kColumns;
      const int o = c0 + Columns<Tiles>::of_column(column);
      Pack<T> pack;
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const int element = stem_element(K, block, k);
        pack.at[k] = element >= 0 && o < out.channels ? weight[o * stem_window(K) + element]
                                                      : from_float<T>(0.f);
      }
      store_vector(&weights[block * kWeightPacks + column].at[0], pack);
    }
  }

  // The thread's rows of product i of a tile: of outputs g and g + 8 of its warp's sixteen, which
  // lie in one row of the tile.
  __device__ __forceinline__ int first_of_warp(int i) const {
    return i * kStemRows + me.warp % (kWarpgroup / kWarp) * 16;
  }
  __device__ __forceinline__ void load(Rows& a, const T* staged, int i) const {
    const int first = first_of_warp(i);
    const int row = min(first / cut.columns, cut.rows - 1), column = first % cut.columns;
    const T* from = staged + row * kStemStride * cut.pitch() + stem_value(K, column + me.g);
    const uint32_t* const words = reinterpret_cast<const uint32_t*>(from) + me.t;
    const int pitch = cut.pitch() / 2;  // words
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        constexpr int kEight = 8 * kStemStride * kStemChannels / 2;  // words to output g + 8
        const int block = min(2 * s + half, stem_blocks(K) - 1);
        const uint32_t* const at = words + block / stem_row_blocks(K) * pitch +
                                   block % stem_row_blocks(K) * (kStemBlock / 2);
        a[s][2 * half] = at[0];
        a[s][2 * half + 1] = at[kEight];
      }
  }
  __device__ __forceinline__ void multiply(Results& sum, const Rows& a) const {
    const uint64_t of_weights =
        planes_descriptor<Inner::channels>(banded::shared_address(weights), kWeightPacks);
    open_products();
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
      multiply_rows<T, Inner::channels>(sum, a[s], moved(of_weights, 2 * s * kWeightPacks));
    commit_products();
    wait_products<0>();
  }
  __device__ __forceinline__ void store(const Results& sum, const StemPlace& place, int i,
                                        Sums& sums) const {
    const int first = first_of_warp(i), row = first / cut.columns, column = first % cut.columns;
    if (row >= place.rows) return;
    const int64_t pixel =
        (int64_t{place.image} * cut.out_height + place.y + row) * cut.out_width + place.x;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = column + half * 8 + me.g;
      if (at >= place.columns) continue;
      float rounded[2 * Tiles];
      store_results(rounded, out.y + (pixel + at) * out.pitch + c0, sum, half, me.t,
                    out.channels - c0);
      if (out.mean) sums.add(rounded);
    }
  }

  __device__ __forceinline__ void make(Sums& sums, int step, int tile) const {
    const StemPlace place = stem_place(cut, tile);
    const int products = (cut.positions() + kStemRows - 1) / kStemRows;
#pragma unroll 1
    for (int i = warpgroup; i < products; i += kAtOnce) {
      Rows a;
      Results sum = {};
      load(a, stage(step), i);
      multiply(sum, a);
      store(sum, place, i, sums);
    }
  }
};

template <class T, int K, int Tiles>
__global__ void __launch_bounds__(kStemForwardThreads, 1)
    stem_forward_kernel(const __grid_constant__ SliceView<T> out, const T* __restrict__ image,
                        const T* __restrict__ weight, Partials partials,
                        const __grid_constant__ StemCut cut) {
  using Kernel = StemForwardKernel<T, K, Tiles>;
  const Kernel k{out, cut};
  k.stage_weights(weight);
  show_to_products();
  follow();
  const int begin = blockIdx.y * cut.per, steps = min(cut.per, cut.tiles - begin);
  copy_tile(k.stage(0), image, cut, begin, k.me);
  commit_copies();
  typename Kernel::Sums sums;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_copies<0>();
    __syncthreads();
    if (step + 1 < steps) copy_tile(k.stage(step + 1), image, cut, begin + step + 1, k.me);
    commit_copies();
    k.make(sums, step, begin + step);
  }

  if (!out.mean) return;
  leave_results<Tiles, kStemForwardThreads / kWarp>(sums, partials.rows, k.c0, out.channels,
                                                    reinterpret_cast<float*>(dynamic_shared));
  constexpr int kVector = 4;  // of the merge
  finish_statistics(
      out.mean, out.var, partials, static_cast<double>(out.pixels()),
      [&](int unit) { return stem_count(cut, unit); }, out.channels,
      *reinterpret_cast<SumBuffer<kVector, kStemForwardThreads>*>(dynamic_shared));
}

template <class T, int K, int Tiles>
void run(const SliceView<T>& out, const T* image, const T* weight, const Partials& partials,
         const StemCut& cut, cudaStream_t stream) {
  const auto kernel = stem_forward_kernel<T, K, Tiles>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  constexpr int kLanes = 8 * Tiles / 4;  // of four channels, for the merge
  launch(kernel, dim3(stem_groups(out.channels), cut.units),
         dim3(kLanes, kStemForwardThreads / kLanes), cut.shared, stream, out, image, weight,
         partials, cut);
}
template <class T, int K>
void run(const SliceView<T>& out, const T* image, const T* weight, const Partials& partials,
         const StemCut& cut, cudaStream_t stream) {
  switch (stem_columns(out.channels)) {
    case 32: return kernels::run<T, K, 4>(out, image, weight, partials, cut, stream);
    case 48: return kernels::run<T, K, 6>(out, image, weight, partials, cut, stream);
    default: return kernels::run<T, K, 8>(out, image, weight, partials, cut, stream);
  }
}

}  // namespace

template <class T>
void StemForward<T>::run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                         int kernel, const Partials& partials, cudaStream_t stream) {
  const StemCut cut =
      stem_forward_cut(in.batch, in.height, in.width, kernel, out.channels, device_limits());
  if (kernel == 3)
    kernels::run<T, 3>(out, in.x, weight, partials, cut, stream);
  else
    kernels::run<T, 7>(out, in.x, weight, partials, cut, stream);
}

template struct StemForward<__half>;
template struct StemForward<__nv_bfloat16>;

}  // namespace engine::kernels
