// Dense 3 × 3 convolution, forward: y = W · f(x) with f made once for each pixel of a tile and read
// at all nine taps, and the statistics of y taken in the epilogue. A persistent block keeps all
// weights in shared memory and streams chunks of 32 channels of its tiles through two stages. Two
// warpgroups multiply one, every other 64 positions each, while another one fills the other from
// its registers and the fourth has the chunk after it on its way there: a warp that begins products
// waits until nearly all of them have begun, and one that fills, until all that it asked for is
// there. For each pixel it moves, in values of T, C + C', and what the borders of the tiles read
// again, from L2.
#include "kernels/dense/tile.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/results.cuh"

namespace engine::kernels {
namespace {

constexpr int kWarpgroupsOfBlock = kDenseForwardMultiplying / kWarpgroup;  // that multiply
constexpr int kFilling = kDenseForwardThreads / kWarpgroup - kWarpgroupsOfBlock;

template <class T, int Tiles>
struct DenseForwardKernel {
  static constexpr int kColumns = 8 * Tiles, kWeightPacks = dense_weight_packs(kColumns);
  static constexpr int kProducts = dense_most_products(kColumns) / kWarpgroupsOfBlock;
  using Of = Columns<Tiles>;
  using Sums = Statistics<2 * Tiles>;
  using Chunk = DenseChunk<T, kWarpgroup>;
  using Results = float[kProducts][Tiles][4];

  const SliceView<T>& out;
  const OperandView<T>& in;
  const DenseCut& cut;
  DenseThread me;
  int chunks = dense_up(in.channels, kDenseChunk);
  int products = dense_up(cut.products - me.warpgroup, kWarpgroupsOfBlock);  // of the warpgroup
  // The shared memory: weights, stages, a scale and a shift for each channel, places of positions.
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* stages = weights + chunks * kDensePacks * kWeightPacks;
  float* floats = reinterpret_cast<float*>(stages + 2 * kDensePacks * cut.plane);
  Constants constants{floats, floats + chunks* kDenseChunk};
  DenseOffsets offsets{reinterpret_cast<int*>(floats + 2 * chunks * kDenseChunk)};

  // weights (packs of channels, taps, columns) = weight (C', 9, C); zero beyond the ends.
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    constexpr int kRows = kDenseTaps * kColumns, kStep = kDenseForwardThreads / kDensePacks,
                  kEach = dense_up(kRows, kStep);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int pack = chunk * kDensePacks + me.pack;
      Pack<T> loaded[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int at = me.at + i * kStep, o = Of::of_column(at % kColumns);
        const bool wanted = at < kRows && o < out.channels && pack * kPack < in.channels;
        loaded[i] =
            load_if(wanted, weight + (int64_t{o} * kDenseTaps + at / kColumns) * in.channels +
                                pack * kPack);
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        if (me.at + i * kStep < kRows)
          store_vector(&weights[pack * kWeightPacks + me.at + i * kStep].at[0], loaded[i]);
    }
  }
  __device__ __forceinline__ void stage_constants() const {
    constants.stage(chunks * kDenseChunk, 0, in.channels, me,
                    [&](int c) { return fold_norm(in.norm.channel(c), in.act); });
  }

  // Of the block's steps, the chunks of one tile after the other's.
  __device__ __forceinline__ Pack<T>* stage(int step) const {
    return stages + step % 2 * kDensePacks * cut.plane;
  }

  // The chunk that a warpgroup reads.
  struct Cursor {
    int tile, chunk;

    __device__ __forceinline__ void advance(int by, int chunks) {
      for (chunk += by; chunk >= chunks; chunk -= chunks) ++tile;
    }
  };
  __device__ __forceinline__ void read(Chunk& packs, const Cursor& from) const {
    const int c = from.chunk * kDenseChunk + me.pack * kPack;
    packs.read(in.x + c, in.pitch, c < in.channels, cut, offsets, dense_place(cut, from.tile), me);
  }
  // Chunk `chunk` of a tile to the stage of a step.
  __device__ __forceinline__ void fill(Chunk& packs, int step, int chunk) const {
    visit_operand(in, constants, chunk * kDenseChunk + me.pack * kPack,
                  [&](auto f) { packs.leave(stage(step) + me.pack * cut.plane, cut, me, f); });
  }

  // Begins the products of a chunk, with those of the warpgroup's 64 positions for which
  // i < products.
  __device__ __forceinline__ void multiply(Results& sum, int step, int chunk) const {
    const int depths = dense_up(min(in.channels - chunk * kDenseChunk, kDenseChunk), kDenseDepth);
    const uint64_t pixels = planes_descriptor<Inner::channels>(
        banded::shared_address(stage(step) + me.warpgroup * kDenseRows), cut.plane);
    const uint64_t of_weights = planes_descriptor<Inner::channels>(
        banded::shared_address(weights + chunk * kDensePacks * kWeightPacks), kWeightPacks);
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      if (i >= products) break;
      open_products();
#pragma unroll 1
      for (int depth = 0; depth < depths; ++depth)
#pragma unroll
        for (int tap = 0; tap < kDenseTaps; ++tap)
          multiply_planes<T, Inner::channels, Inner::channels>(
              sum[i],
              pixels + 2 * depth * cut.plane + tap / 3 * cut.pitch + tap % 3 +
                  i * kWarpgroupsOfBlock * kDenseRows,
              of_weights + 2 * depth * kWeightPacks + tap * kColumns,
              chunk > 0 || depth > 0 || tap > 0);
      commit_products();
    }
  }

  // Stores the tile's results.
  __device__ __forceinline__ void store(const Results& sum, int tile, Sums& sums) const {
    const DensePlace place = dense_place(cut, tile);
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      if (i >= products) break;
      const int from = cut.first() + (i * kWarpgroupsOfBlock + me.warpgroup) * kDenseRows;
      for_results(offsets, place, from, me, [&](int half, int64_t pixel) {
        float rounded[2 * Tiles];
        store_results(rounded, out.y + pixel * out.pitch, sum[i], half, me.t, out.channels);
        if (out.mean) sums.add(rounded);
      });
    }
  }

  // What the two kinds of threads do with tiles [begin, end). All meet once the constants are
  // there, and whenever a chunk has been filled, and the one before it multiplied.
  __device__ __forceinline__ void fill_all(int begin, int end) const {
    const int steps = (end - begin) * chunks, first = me.warpgroup - kWarpgroupsOfBlock;
    Chunk packs;
    Cursor at{begin, 0};
    at.advance(first, chunks);
    if (first < steps) read(packs, at);
    stage_constants();
    meet();
#pragma unroll 1
    for (int step = 0; step <= steps; ++step) {
      const bool fills = step % kFilling == first && step < steps;
      if (fills) {
        fill(packs, step, at.chunk);
        show_to_products();
      }
      meet();
      if (!fills || step + kFilling >= steps) continue;
      at.advance(kFilling, chunks);
      read(packs, at);
    }
  }
  __device__ __forceinline__ void multiply_all(Sums& sums, int begin, int end) const {
    stage_constants();
    meet();
    meet();
    int step = 0;
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      Results sum;
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; ++chunk, ++step) {
        multiply(sum, step, chunk);
        wait_products<0>();
        if (chunk + 1 == chunks) store(sum, tile, sums);
        meet();
      }
    }
  }
  // All threads of the block, from either side of a branch.
  __device__ __forceinline__ static void meet() {
    asm volatile("barrier.sync 1, %0;" ::"n"(kDenseForwardThreads) : "memory");
  }
};

template <class T, int Tiles>
__global__ void __launch_bounds__(kDenseForwardThreads, 1)
    dense_forward_kernel(const __grid_constant__ SliceView<T> out,
                         const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                         Partials partials, const __grid_constant__ DenseCut cut) {
  using Kernel = DenseForwardKernel<T, Tiles>;
  Kernel k{out, in, cut};
  k.offsets.stage(cut, k.me);
  k.stage_weights(weight);
  __syncthreads();
  follow();
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles);
  const bool multiplies = k.me.warpgroup < kWarpgroupsOfBlock;
  typename Kernel::Sums sums;
  if (multiplies) {
    k.multiply_all(sums, begin, end);
  } else {
    k.me.at %= kWarpgroup / kDensePacks;
    k.fill_all(begin, end);
  }

  if (!out.mean) return;
  leave_results<Tiles, kDenseForwardMultiplying / kWarp>(sums, partials.rows, 0, out.channels,
                                                         reinterpret_cast<float*>(dynamic_shared));
  constexpr int kVector = 4;  // of the merge
  finish_statistics(
      out.mean, out.var, partials, static_cast<double>(out.pixels()),
      [&](int unit) { return dense_count(cut, unit); }, out.channels,
      *reinterpret_cast<SumBuffer<kVector, kDenseForwardThreads>*>(dynamic_shared));
}

template <class T, int Tiles>
void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
         const Partials& partials, const DenseCut& cut, cudaStream_t stream) {
  const auto kernel = dense_forward_kernel<T, Tiles>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int lanes = out.channels <= 32 ? 8 : 16;  // of four channels, for the merge
  launch(kernel, dim3(1, cut.units), dim3(lanes, kDenseForwardThreads / lanes), cut.shared, stream,
         out, in, weight, partials, cut);
}

}  // namespace

template <class T>
void DenseForward<T>::run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                          const Partials& partials, cudaStream_t stream) {
  const DenseCut cut =
      dense_forward_cut(in.batch, in.height, in.width, in.channels, out.channels, device_limits());
  switch (dense_columns(out.channels)) {
    case 32: return kernels::run<T, 4>(out, in, weight, partials, cut, stream);
    case 48: return kernels::run<T, 6>(out, in, weight, partials, cut, stream);
    default: return kernels::run<T, 8>(out, in, weight, partials, cut, stream);
  }
}

template struct DenseForward<__half>;
template struct DenseForward<__nv_bfloat16>;

}  // namespace engine::kernels
