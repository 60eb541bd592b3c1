// Sums over pixels without atomics on floats: each tile leaves one row of partial sums, and the
// rows are merged in fp64, in a fixed order: by the block of a group of channels that ends last, or
// by a small kernel. Row `tile` of the rows is (kPartialsPerChannel, channels).
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/kernels.h"
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

// ---------------------------------------------------------------- what a block leaves

// Calls use(channel, sum over threadIdx.y) for the block's channels; c is this thread's first. All
// threads call it. `buffer` holds V floats per thread.
template <int V, class Use>
__device__ __forceinline__ void sum_rows(const float (&sum)[V], int c, int channels, float* buffer,
                                         Use use) {
  const int width = blockDim.x * V, threads = blockDim.x * blockDim.y;
  const int me = threadIdx.y * blockDim.x + threadIdx.x;
  const int first = c - static_cast<int>(threadIdx.x) * V;  // channel of the block
  __syncthreads();                                          // the buffer may still be read
#pragma unroll
  for (int k = 0; k < V; ++k) buffer[me * V + k] = sum[k];
  __syncthreads();
  for (int j = me; j < width && first + j < channels; j += threads) {
    float total = 0;
#pragma unroll 8
    for (int row = 0; row < static_cast<int>(blockDim.y); ++row) total += buffer[row * width + j];
    use(first + j, total);
  }
}

// Leaves such sums as sum number `which` of the block's row.
template <int V>
__device__ __forceinline__ void leave_sum(const float (&sum)[V], int which, float* partials, int c,
                                          int channels, float* buffer) {
  sum_rows(sum, c, channels, buffer,
           [&](int channel, float total) { partial(partials, which, channels)[channel] = total; });
}

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
    __syncthreads();  // the buffer may still be read
    if (threadIdx.y == 0) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        buffer[threadIdx.x * V + k] = shift[k];
        if (c + k < channels) partial(partials, 2, channels)[c + k] = shift[k];
      }
    }
    __syncthreads();
    const float n = static_cast<float>(count);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float d = count ? shift[k] - buffer[threadIdx.x * V + k] : 0.f;
      second[k] += d * (2.f * first[k] + n * d);
      first[k] += n * d;
    }
    leave_sum(first, 0, partials, c, channels, buffer);
    leave_sum(second, 1, partials, c, channels, buffer);
  }
};

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
__host__ __device__ NormSums norm_sums(const GradientSink<T>& sink, const OperandView<T>& in) {
  return {sink.dgamma, sink.dbeta, sink.k0, sink.k1, in.norm, static_cast<double>(in.pixels())};
}
template <class T>
__host__ __device__ bool takes_sums(const GradientSink<T>& sink) {
  return !sink.gated() && sink.summed();
}

void merge_norm_sums(const NormSums& sums, const float* partials, int tiles, int channels,
                     cudaStream_t stream);

// out[c·taps + tap] (= or +=) Σ over tiles of rows[(tile·row_taps + tap)·channels + c].
void merge_taps(float* out, const float* rows, int tiles, int taps, int row_taps, int channels,
                bool accumulate, cudaStream_t stream);

}  // namespace engine::kernels
