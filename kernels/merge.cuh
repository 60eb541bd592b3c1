// The merge of a sweep's rows of sums in the sweep itself: of the blocks of a group of channels,
// the one that ends last merges what all have left, in fp64 and in the order of the tiles.
#pragma once

#include "kernels/partials.cuh"

namespace engine::kernels {

// Channels that a thread merges at a time.
template <int V>
constexpr int kMergeVector = V % 4 == 0   ? 4
                             : V % 2 == 0 ? 2
                                          : 1;

// Shared memory of a block of at most `Threads` that takes sums, V channels a thread.
template <int V, int Threads = kSweepThreads>
union SumBuffer {
  float floats[V * Threads];
  double doubles[2][kMergeVector<V> * Threads];
};

// Orders what the block wrote or will read, as one of its threads knows it from a barrier, in the
// memory of the device.
__device__ __forceinline__ void device_fence() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// Whether this block is the last of its group to come here; all that the others wrote before is
// then visible. All threads call it.
__device__ __forceinline__ bool comes_last(unsigned* done) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    device_fence();
    last = atomicInc(&done[blockIdx.x], gridDim.y - 1) == gridDim.y - 1;  // wraps to zero
    device_fence();
  }
  __syncthreads();
  return last;
}

// Sum number `which` of M channels in the row of a tile, past the first-level cache.
template <int M>
__device__ __forceinline__ Vector<float, M> row_sums(const float* rows, int tile, int which, int c,
                                                     int channels) {
  const float* from = rows + (int64_t{tile} * kPartialsPerChannel + which) * channels + c;
  Vector<float, M> sums;
  if constexpr (M == 4)
    *reinterpret_cast<float4*>(&sums) = __ldcg(reinterpret_cast<const float4*>(from));
  else if constexpr (M == 2)
    *reinterpret_cast<float2*>(&sums) = __ldcg(reinterpret_cast<const float2*>(from));
  else
    sums.at[0] = __ldcg(from);
  return sums;
}

// Calls add(load(tile, c), tile, first, second) for vectors of channels and the rows of all tiles,
// then finish(channel, first, second) with the totals of each channel. Threads share the rows; some
// are under way at a time.
template <int V, int Threads, class Load, class Add, class Finish>
__device__ __forceinline__ void merge_group(SumBuffer<V, Threads>& buffer, int channels, Load load,
                                            Add add, Finish finish) {
  constexpr int M = kMergeVector<V>, kTogether = 6;
  const int width = blockDim.x * V, threads = blockDim.x * blockDim.y, tiles = gridDim.y;
  const int vectors = width / M, shares = threads / vectors, group = blockIdx.x * width;
  const int me = threadIdx.y * blockDim.x + threadIdx.x;
  const int share = me / vectors, at = me % vectors * M;
  double first[M] = {}, second[M] = {};
  if (share < shares && group + at < channels) {
    for (int tile = share; tile < tiles; tile += kTogether * shares) {
      decltype(load(0, 0)) rows[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        rows[i] = load(min(tile + i * shares, tiles - 1), group + at);
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (tile + i * shares < tiles) add(rows[i], tile + i * shares, first, second);
    }
  }
  if (share < shares) {
#pragma unroll
    for (int k = 0; k < M; ++k) {
      buffer.doubles[0][share * width + at + k] = first[k];
      buffer.doubles[1][share * width + at + k] = second[k];
    }
  }
  __syncthreads();
  for (int j = me; j < width && group + j < channels; j += threads) {
    double totals[2] = {};
    for (int i = 0; i < shares; ++i) {
      totals[0] += buffer.doubles[0][i * width + j];
      totals[1] += buffer.doubles[1][i * width + j];
    }
    finish(group + j, totals[0], totals[1]);
  }
}

// mean and biased variance = from the rows that Statistics::leave left, of count_of(tile) values
// each and `count` in all. All threads call it.
template <int V, int Threads, class CountOf>
__device__ void finish_statistics(float* mean, float* var, const Partials& partials, double count,
                                  CountOf count_of, int channels, SumBuffer<V, Threads>& buffer) {
  constexpr int M = kMergeVector<V>;
  if (!comes_last(partials.done)) return;
  const float* rows = partials.rows;
  struct Row {
    Vector<float, M> first, second, shift, origin;
  };
  merge_group(
      buffer, channels,
      [&](int tile, int c) {
        return Row{row_sums<M>(rows, tile, 0, c, channels), row_sums<M>(rows, tile, 1, c, channels),
                   row_sums<M>(rows, tile, 2, c, channels), row_sums<M>(rows, 0, 2, c, channels)};
      },
      [&](const Row& row, int tile, double(&first)[M], double(&second)[M]) {
        const double n = count_of(tile);
#pragma unroll
        for (int k = 0; k < M; ++k) {
          const double s1 = row.first.at[k], s2 = row.second.at[k];
          const double d = double{row.shift.at[k]} - double{row.origin.at[k]};
          first[k] += s1 + n * d;
          second[k] += s2 + d * (2 * s1 + n * d);
        }
      },
      [&](int c, double first, double second) {
        const double shifted = first / count;
        const double variance = second / count - shifted * shifted;
        mean[c] = static_cast<float>(row_sums<1>(rows, 0, 2, c, channels).at[0] + shifted);
        var[c] = static_cast<float>(variance < 0 ? 0 : variance);  // NaN stays
      });
}

// The same for the tiles of a sweep.
template <int V, int Threads>
__device__ void finish_statistics(float* mean, float* var, const Partials& partials,
                                  const Sweep& sweep, int channels, SumBuffer<V, Threads>& buffer) {
  const auto count_of = [&](int tile) {
    return min(sweep.per_tile, sweep.pixels - tile * sweep.per_tile);
  };
  finish_statistics(mean, var, partials, sweep.pixels, count_of, channels, buffer);
}

// The totals of sums number which[0] and, if N is 2, which[1] of each channel, as finish(channel,
// first, second). All threads of a block that comes last call it.
template <int N, int V, int Threads, class Finish>
__device__ __forceinline__ void merge_sums(const float* from, const int (&which)[N], int channels,
                                           SumBuffer<V, Threads>& buffer, Finish finish) {
  constexpr int M = kMergeVector<V>;
  struct Row {
    Vector<float, M> sums[N];
  };
  merge_group(
      buffer, channels,
      [&](int tile, int c) {
        Row row;
#pragma unroll
        for (int i = 0; i < N; ++i) row.sums[i] = row_sums<M>(from, tile, which[i], c, channels);
        return row;
      },
      [&](const Row& row, int, double(&first)[M], double(&second)[M]) {
#pragma unroll
        for (int k = 0; k < M; ++k) {
          first[k] += row.sums[0].at[k];
          if (N == 2) second[k] += row.sums[N - 1].at[k];
        }
      },
      finish);
}

// The same of the first N sums, one or two, in one block of each group. All threads call it.
template <int N, int V, int Threads, class Finish>
__device__ void finish_sums(const Partials& partials, int channels, SumBuffer<V, Threads>& buffer,
                            Finish finish) {
  if (!comes_last(partials.done)) return;
  int which[N];
#pragma unroll
  for (int i = 0; i < N; ++i) which[i] = i;
  merge_sums<N>(partials.rows, which, channels, buffer, finish);
}

// dgamma, dbeta, k0 and k1 += from the rows that GradientWriter::leave left. All threads call it.
template <int V, int Threads, class T>
__device__ void finish_norm_sums(const GradientSink<T>& sink, const OperandView<T>& in,
                                 const Partials& partials, SumBuffer<V, Threads>& buffer) {
  const NormSums sums = norm_sums(sink, in);
  finish_sums<2>(partials, in.channels, buffer,
                 [&](int c, double sum_t, double sum_t_xhat) { sums.add(c, sum_t, sum_t_xhat); });
}

}  // namespace engine::kernels
