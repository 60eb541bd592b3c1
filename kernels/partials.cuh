// Sums over pixels without atomics: each tile leaves one row of partial sums, and a small kernel
// merges the rows in fp64, in a fixed order. Row `tile` of `partials` is (kPartialsPerChannel,
// channels).
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/operand.h"
#include "kernels/sweep.cuh"

namespace engine::kernels {

__device__ __forceinline__ float* partial(float* partials, int which, int channels) {
  return partials + (int64_t{blockIdx.y} * kPartialsPerChannel + which) * channels;
}

// How many pixels each tile has. Items are strips of `rows` rows of a (height, width) image,
// `strips` to an image, the last one lower; a tile has `per_tile` items, the last tile fewer.
struct TileCounts {
  int height, width, rows, strips, items, per_tile;

  __host__ __device__ int tiles() const { return (items + per_tile - 1) / per_tile; }
  __host__ __device__ int count(int tile) const {
    const int begin = tile * per_tile, end = begin + per_tile < items ? begin + per_tile : items;
    const int last_strips = end / strips - begin / strips, missing = strips * rows - height;
    return ((end - begin) * rows - last_strips * missing) * width;
  }
};

inline TileCounts tile_counts(const Sweep& s) {
  return {s.pixels, 1, s.per_tile, s.tiles, s.tiles, 1};
}

// ---------------------------------------------------------------- what a block leaves

// The sums over V channels of one thread, shifted by the first value, so that nothing cancels.
template <int V>
struct Statistics {
  float shift[V] = {}, first[V] = {}, second[V] = {};
  int count = 0;

  __device__ __forceinline__ void add(const float (&value)[V]) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (count == 0) shift[k] = value[k];
      const float d = value[k] - shift[k];
      first[k] += d;
      second[k] = fmaf(d, d, second[k]);
    }
    ++count;
  }

  // All threads call it; row 0 must have counted something. `buffer` holds V floats per thread.
  __device__ void leave(float* partials, int c, int channels, float* buffer) {
    const int threads = blockDim.x * blockDim.y, me = threadIdx.x;
    __syncthreads();
    if (threadIdx.y == 0) {
#pragma unroll
      for (int k = 0; k < V; ++k) buffer[k * threads + me] = shift[k];
    }
    __syncthreads();
    const float n = static_cast<float>(count);
    float of_tile[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      of_tile[k] = buffer[k * threads + me];
      const float d = count ? shift[k] - of_tile[k] : 0.f;
      second[k] += d * (2.f * first[k] + n * d);
      first[k] += n * d;
    }
    sum_rows(first, buffer);
    sum_rows(second, buffer);
    if (threadIdx.y != 0) return;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (c + k >= channels) break;
      partial(partials, 0, channels)[c + k] = first[k];
      partial(partials, 1, channels)[c + k] = second[k];
      partial(partials, 2, channels)[c + k] = of_tile[k];
    }
  }
};

// Leaves one plain sum per channel as sum number `which`. All threads call it.
template <int V>
__device__ void leave_sum(float (&sum)[V], int which, float* partials, int c, int channels,
                          float* buffer) {
  sum_rows(sum, buffer);
  if (threadIdx.y != 0) return;
#pragma unroll
  for (int k = 0; k < V; ++k)
    if (c + k < channels) partial(partials, which, channels)[c + k] = sum[k];
}

// ---------------------------------------------------------------- merging, in partials.cu

// mean and biased variance = from the rows that Statistics::leave left.
void merge_statistics(float* mean, float* var, const float* partials, const TileCounts& counts,
                      int channels, cudaStream_t stream);

// What a norm gets from Σt and Σt·xhat: dgamma, dbeta, k0, k1, each +=.
struct NormSums {
  float *dgamma, *dbeta, *k0, *k1;
  NormView<float> norm;
  double count;  // pixels of the buffer

  __device__ __forceinline__ void add(int c, double sum_t, double sum_t_xhat) const {
    const double scale = norm.channel(c).scale() / count;
    if (dbeta) dbeta[c] += static_cast<float>(sum_t);
    if (dgamma) dgamma[c] += static_cast<float>(sum_t_xhat);
    if (k0) k0[c] += static_cast<float>(scale * sum_t);
    if (k1) k1[c] += static_cast<float>(scale * sum_t_xhat);
  }
};

template <class T>
NormSums norm_sums(const GradientSink<T>& sink, const OperandView<T>& in) {
  return {sink.dgamma, sink.dbeta, sink.k0, sink.k1, in.norm, static_cast<double>(in.pixels())};
}
template <class T>
__host__ __device__ bool takes_sums(const GradientSink<T>& sink) {
  return !sink.gated() && (sink.dgamma || sink.dbeta || sink.k0 || sink.k1);
}

void merge_norm_sums(const NormSums& sums, const float* partials, int tiles, int channels,
                     cudaStream_t stream);

// out[c·taps + tap] (= or +=) Σ over tiles of rows[(tile·row_taps + tap)·channels + c].
void merge_rows(float* out, const float* rows, int tiles, int taps, int row_taps, int channels,
                bool accumulate, cudaStream_t stream);

}  // namespace engine::kernels
