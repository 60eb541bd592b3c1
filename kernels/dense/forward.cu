// Dense 3 × 3 convolution, forward: y = W · f(x) with f made once for each pixel of a tile and read
// at all nine taps, and the statistics of y taken in the epilogue. A persistent block keeps all
// weights in shared memory and streams chunks of 32 channels of its tiles through three stages: one
// is multiplied while the next one is transformed and the one after it is copied. For each pixel it
// moves, in values of T, C + C', and what the borders of the tiles read again, from L2.
#include "kernels/dense/tile.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"

namespace engine::kernels {
namespace {

// Which channel a column of the product is: a thread holds columns 2t and 2t + 1 of each of its
// results, and stores vectors of up to eight channels.
template <int Tiles>
struct Columns {
  static constexpr int kVector = Tiles % 4 == 0 ? 8 : Tiles % 2 == 0 ? 4 : 2;
  static constexpr int kVectors = 2 * Tiles / kVector;

  // The first channel of vector v of a thread, from its warp's first one.
  __device__ __forceinline__ static int channel(int v, int t) {
    return v * 4 * kVector + t * kVector;
  }
  // The channel of column n of the warp.
  __device__ __forceinline__ static int of_column(int n) {
    const int value = n / 8 * 2 + n % 2;  // of the thread's
    return channel(value / kVector, n % 8 / 2) + value % kVector;
  }
};

template <class T, int Tiles>
struct DenseForwardKernel {
  using Of = Columns<Tiles>;
  using Sums = Statistics<2 * Tiles>;

  const SliceView<T>& out;
  const OperandView<T>& in;
  const DenseCut& cut;
  DenseThread me;
  int along = me.warp % cut.shape.pixels, across = me.warp / cut.shape.pixels;  // of the warps
  int columns = Tiles * 8 * cut.shape.channels;
  int chunks = dense_up(in.channels, kDenseChunk);
  // The shared memory: weights, stages, a scale and a shift for each channel.
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* stages = weights + chunks * kDensePacks * dense_weight_packs(columns);
  float* floats = reinterpret_cast<float*>(stages + kDenseStages * kDensePacks * cut.plane);
  Constants constants{floats, floats + chunks* kDenseChunk};

  // weights (packs of channels, taps, columns) = weight (C', 9, C); zero beyond the ends.
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    const int packs = chunks * kDensePacks, count = packs * kDenseTaps * columns;
    for (int i = me.index; i < count; i += me.count) {
      const int pack = i % packs, at = i / packs, tap = at / columns, column = at - tap * columns;
      const int of_warp = column % (8 * Tiles);
      const int o = column - of_warp + Of::of_column(of_warp);
      Pack<T>* const to = weights + pack * dense_weight_packs(columns) + at;
      if (o < out.channels && pack * kPack < in.channels)
        copy_async(to, weight + (int64_t{o} * kDenseTaps + tap) * in.channels + pack * kPack);
      else
        store_vector(&to->at[0], Pack<T>{});
    }
  }
  __device__ __forceinline__ Pack<T>* stage(int step) const {
    return stages + step % kDenseStages * kDensePacks * cut.plane;
  }
  // Step s of the block is chunk s % chunks of its tile s / chunks.
  __device__ __forceinline__ Inside copy(int step, int begin) const {
    const DensePlace place = dense_place(cut, begin + step / chunks);
    const int pack = me.index % kDensePacks;
    const int c = step % chunks * kDenseChunk + pack * kPack;
    Pack<T>* const to = stage(step) + pack * cut.plane;
    return copy_pixels(
        cut.staged, me, [&](int at) { return dense_staged(cut, place, at); },
        [&](int at, int pixel) { copy_pack(to + at, in.x, in.pitch, in.channels, c, pixel); });
  }
  __device__ __forceinline__ void transform(int step, Inside inside) const {
    transform_operand<4>(stage(step), tile_planes(cut), inside, in, constants,
                         step % chunks * kDenseChunk, me);
  }

  __device__ __forceinline__ void multiply(float (&sum)[kDenseRows][Tiles][4], int step) const {
    const uint32_t cells = banded::shared_address(stage(step) + lane_of_cells(cut, me, 2 * along));
    // Lane 8·i + j addresses column j of tile i / 2, at pack i % 2.
    const int pack_stride = dense_weight_packs(columns), matrix = me.lane / 8;
    const Pack<T>* const first =
        weights + (step % chunks * kDensePacks + matrix % 2) * pack_stride + across * Tiles * 8 +
        (Tiles > 1 ? matrix / 2 * 8 : 0) + me.lane % 8;
    const uint32_t from = banded::shared_address(first);
    const int steps = steps_of_chunk(in.channels, step % chunks * kDenseChunk);
    multiply_chunk<T>(sum, cells, steps, cut, [&](uint32_t(&b)[Tiles][2], int sixteen, int tap) {
      const uint32_t at = from + (sixteen * 2 * pack_stride + tap * columns) * sizeof(Pack<T>);
#pragma unroll
      for (int j = 0; j + 1 < Tiles; j += 2) {
        uint32_t r[4];
        banded::load_matrices(r, at + j * 8 * sizeof(Pack<T>));
        b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
      }
      if constexpr (Tiles % 2 == 1) {
        uint32_t r[2];
        banded::load_matrices(r, at + (Tiles - 1) * 8 * sizeof(Pack<T>));
        b[Tiles - 1][0] = r[0], b[Tiles - 1][1] = r[1];
      }
    });
  }

  // Stores the tile's results.
  __device__ __forceinline__ void store(const float (&sum)[kDenseRows][Tiles][4], int tile,
                                        Sums& sums) const {
    const DensePlace place = dense_place(cut, tile);
    const int first = across * Tiles * 8;
    for_results(cut, place, 2 * along, me.g, [&](int cell, int row, int64_t pixel) {
      float rounded[2 * Tiles];
#pragma unroll
      for (int v = 0; v < Of::kVectors; ++v) {
        float value[Of::kVector], stored[Of::kVector];
#pragma unroll
        for (int k = 0; k < Of::kVector; ++k) {
          const int of_thread = v * Of::kVector + k;
          value[k] = sum[row][of_thread / 2][2 * cell + of_thread % 2];
        }
        const Vector<T, Of::kVector> vector = vector_of<T>(value);
        const int c = first + Of::channel(v, me.t);
        if (c < out.channels) store_vector(out.y + pixel * out.pitch + c, vector);
        to_floats(stored, vector);
#pragma unroll
        for (int k = 0; k < Of::kVector; ++k) rounded[v * Of::kVector + k] = stored[k];
      }
      if (out.mean) sums.add(rounded);
    });
  }

  // Leaves the block's row of sums, shifted by what its first thread for each channel stored first.
  __device__ __forceinline__ void leave(Sums& sums, float* partials) const {
    float* const origin = reinterpret_cast<float*>(dynamic_shared);
    float* const of_warps = origin + columns;  // (warps along pixels, 2, columns)
    const int first = across * Tiles * 8;
    const auto channel = [&](int k) {
      return first + Of::channel(k / Of::kVector, me.t) + k % Of::kVector;
    };
    if (along == 0 && me.g == 0) {
#pragma unroll
      for (int k = 0; k < 2 * Tiles; ++k) origin[channel(k)] = sums.shift[k];
    }
    __syncthreads();
    const float n = static_cast<float>(sums.count);
#pragma unroll
    for (int k = 0; k < 2 * Tiles; ++k) {
      const float d = sums.count ? sums.shift[k] - origin[channel(k)] : 0.f;
      float one = fmaf(n, d, sums.first[k]);
      float two = fmaf(d, fmaf(n, d, 2.f * sums.first[k]), sums.second[k]);
#pragma unroll
      for (int lanes = 4; lanes < kWarp; lanes *= 2) {
        one += __shfl_xor_sync(0xffffffff, one, lanes);
        two += __shfl_xor_sync(0xffffffff, two, lanes);
      }
      if (me.g != 0) continue;
      of_warps[2 * along * columns + channel(k)] = one;
      of_warps[(2 * along + 1) * columns + channel(k)] = two;
    }
    __syncthreads();
    for (int c = me.index; c < out.channels; c += me.count) {
      float one = 0, two = 0;
      for (int w = 0; w < cut.shape.pixels; ++w) {
        one += of_warps[2 * w * columns + c];
        two += of_warps[(2 * w + 1) * columns + c];
      }
      partial(partials, 0, out.channels)[c] = one;
      partial(partials, 1, out.channels)[c] = two;
      partial(partials, 2, out.channels)[c] = origin[c];
    }
  }
};

template <class T, int Tiles>
__global__ void __launch_bounds__(kDenseMostThreads, 1)
    dense_forward_kernel(const __grid_constant__ SliceView<T> out,
                         const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                         Partials partials, const __grid_constant__ DenseCut cut) {
  follow();
  const DenseForwardKernel<T, Tiles> k{out, in, cut};
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles);
  const int steps = (end - begin) * k.chunks;
  const auto copy = [&](int step) {
    const Inside inside = step < steps ? k.copy(step, begin) : 0;
    commit_copies();
    return inside;
  };
  k.stage_weights(weight);
  const Inside first = copy(0);
  Inside next = copy(1);
  k.constants.stage(k.chunks * kDenseChunk, 0, in.channels, k.me,
                    [&](int c) { return fold_norm(in.norm.channel(c), in.act); });
  wait_copies<1>();
  __syncthreads();
  k.transform(0, first);
  __syncthreads();

  // Of the warps of a quarter of the multiprocessor, one multiplies while the other copies and
  // transforms.
  const int second = k.me.warp / 4 % 2;
  typename DenseForwardKernel<T, Tiles>::Sums sums;
  float sum[kDenseRows][Tiles][4] = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      if (part == second) {
        k.multiply(sum, step);
      } else {
        const Inside ahead = copy(step + 2);
        wait_copies<1>();
        k.transform(step + 1, next);
        next = ahead;
      }
    }
    if ((step + 1) % k.chunks == 0) {
      k.store(sum, begin + step / k.chunks, sums);
#pragma unroll
      for (auto& row : sum)
#pragma unroll
        for (auto& tile : row)
#pragma unroll
          for (float& value : tile) value = 0;
    }
    __syncthreads();
  }

  if (!out.mean) return;
  k.leave(sums, partials.rows);
  constexpr int kVector = 4;  // of the merge
  finish_statistics(
      out.mean, out.var, partials, static_cast<double>(out.pixels()),
      [&](int unit) { return dense_count(cut, unit); }, out.channels,
      *reinterpret_cast<SumBuffer<kVector>*>(dynamic_shared));
}

template <class T, int Tiles>
void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
         const Partials& partials, const DenseCut& cut, cudaStream_t stream) {
  const auto kernel = dense_forward_kernel<T, Tiles>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int lanes = out.channels <= 32 ? 8 : 16;  // of four channels, for the merge
  launch(kernel, dim3(1, cut.units), dim3(lanes, cut.shape.threads() / lanes), cut.shared, stream,
         out, in, weight, partials, cut);
}

}  // namespace

template <class T>
void DenseForward<T>::run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                          const Partials& partials, cudaStream_t stream) {
  const DenseCut cut =
      dense_forward_cut(in.batch, in.height, in.width, in.channels, out.channels, device_limits());
  switch (dense_columns(out.channels, cut.shape) / 8 / cut.shape.channels) {
    case 1: return kernels::run<T, 1>(out, in, weight, partials, cut, stream);
    case 2: return kernels::run<T, 2>(out, in, weight, partials, cut, stream);
    case 3: return kernels::run<T, 3>(out, in, weight, partials, cut, stream);
    case 4: return kernels::run<T, 4>(out, in, weight, partials, cut, stream);
    default: return kernels::run<T, 6>(out, in, weight, partials, cut, stream);
  }
}

template struct DenseForward<__half>;
template struct DenseForward<__nv_bfloat16>;

}  // namespace engine::kernels
