// What becomes of the results of a warpgroup's product (kernels/warpgroup.cuh): sixteen channels at
// most for a thread in each of its two rows, stored in vectors, and their statistics.
#pragma once

#include "kernels/device.cuh"
#include "kernels/partials.cuh"
#include "kernels/vector.cuh"

namespace engine::kernels {

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
  // The channel of a thread's value k.
  __device__ __forceinline__ static int of_value(int k, int t) {
    return channel(k / kVector, t) + k % kVector;
  }
  // The channel of column n of the warp.
  __device__ __forceinline__ static int of_column(int n) {
    const int value = n / 8 * 2 + n % 2;  // of the thread's
    return of_value(value, n % 8 / 2);
  }
};

// Stores a thread's values of row g, or g + 8 of the other half, of those that are less than
// `channels`, at `to`, and gives them back as they were rounded.
template <class T, int Tiles>
__device__ __forceinline__ void store_results(float (&rounded)[2 * Tiles], T* to,
                                              const float (&sum)[Tiles][4], int half, int t,
                                              int channels) {
  using Of = Columns<Tiles>;
#pragma unroll
  for (int v = 0; v < Of::kVectors; ++v) {
    float value[Of::kVector], stored[Of::kVector];
#pragma unroll
    for (int k = 0; k < Of::kVector; ++k) {
      const int of_thread = v * Of::kVector + k;
      value[k] = sum[of_thread / 2][2 * half + of_thread % 2];
    }
    const Vector<T, Of::kVector> vector = vector_of<T>(value);
    const int c = Of::channel(v, t);
    if (c < channels) store_vector(to + c, vector);
    to_floats(stored, vector);
#pragma unroll
    for (int k = 0; k < Of::kVector; ++k) rounded[v * Of::kVector + k] = stored[k];
  }
}

// Leaves the block's row of sums of `channels` channels, of which the block has those from c0 on,
// shifted by what its first thread for each channel stored first. The first `Warps` warps have
// counted something; all threads call it. `shared` holds (1 + 2 · Warps) · 8 · Tiles floats.
template <int Tiles, int Warps>
__device__ __forceinline__ void leave_results(const Statistics<2 * Tiles>& sums, float* partials,
                                              int c0, int channels, float* shared) {
  constexpr int kColumns = 8 * Tiles;
  using Of = Columns<Tiles>;
  const int me = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int warp = me / kWarp, g = me % kWarp / 4, t = me % 4;
  float *const origin = shared, *const of_warps = origin + kColumns;  // (warps, 2, columns)
  __syncthreads();  // the memory may still be read
  if (warp == 0 && g == 0) {
#pragma unroll
    for (int k = 0; k < 2 * Tiles; ++k) origin[Of::of_value(k, t)] = sums.shift[k];
  }
  __syncthreads();
  const float n = static_cast<float>(sums.count);
#pragma unroll
  for (int k = 0; k < 2 * Tiles; ++k) {
    const int c = Of::of_value(k, t);
    const float d = sums.count ? sums.shift[k] - origin[c] : 0.f;
    const float one = rows_sum(fmaf(n, d, sums.first[k]));
    const float two = rows_sum(fmaf(d, fmaf(n, d, 2.f * sums.first[k]), sums.second[k]));
    if (g != 0 || warp >= Warps) continue;
    of_warps[2 * warp * kColumns + c] = one;
    of_warps[(2 * warp + 1) * kColumns + c] = two;
  }
  __syncthreads();
  for (int c = me; c < kColumns && c0 + c < channels; c += threads) {
    float one = 0, two = 0;
    for (int w = 0; w < Warps; ++w) {
      one += of_warps[2 * w * kColumns + c];
      two += of_warps[(2 * w + 1) * kColumns + c];
    }
    partial(partials, 0, channels)[c0 + c] = one;
    partial(partials, 1, channels)[c0 + c] = two;
    partial(partials, 2, channels)[c0 + c] = origin[c];
  }
}

}  // namespace engine::kernels
