// Merges rows of partial sums: a block takes 32 channels, 32 threads share each channel's rows.
#include "kernels/partials.cuh"

namespace engine::kernels {
namespace {

constexpr int kShare = 32;

// Σ over threadIdx.y in a fixed order; valid in row 0.
__device__ double sum_shares(double value, double (&buffer)[kShare][kShare]) {
  __syncthreads();
  buffer[threadIdx.y][threadIdx.x] = value;
  for (int half = kShare / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < half)
      buffer[threadIdx.y][threadIdx.x] += buffer[threadIdx.y + half][threadIdx.x];
  }
  return buffer[0][threadIdx.x];  // row 0 wrote it itself
}

__global__ void merge_statistics_kernel(float* mean, float* var, const float* __restrict__ partials,
                                        TileCounts counts, int channels) {
  __shared__ double buffer[kShare][kShare];
  const int c = blockIdx.x * kShare + threadIdx.x, tiles = counts.tiles();
  const auto value = [&](int tile, int which) {
    return static_cast<double>(
        partials[(int64_t{tile} * kPartialsPerChannel + which) * channels + c]);
  };
  double first = 0, second = 0, origin = 0;
  if (c < channels) {
    origin = value(0, 2);
#pragma unroll 4
    for (int t = threadIdx.y; t < tiles; t += kShare) {
      const double n = counts.count(t), s1 = value(t, 0), s2 = value(t, 1),
                   d = value(t, 2) - origin;
      first += s1 + n * d;
      second += s2 + d * (2 * s1 + n * d);
    }
  }
  first = sum_shares(first, buffer);
  second = sum_shares(second, buffer);
  if (threadIdx.y != 0 || c >= channels) return;
  const double count =
      static_cast<double>(counts.items / counts.strips) * counts.height * counts.width;
  const double shifted = first / count;
  mean[c] = static_cast<float>(origin + shifted);
  const double variance = second / count - shifted * shifted;
  var[c] = static_cast<float>(variance < 0 ? 0 : variance);  // NaN stays
}

__global__ void merge_norm_sums_kernel(NormSums sums, const float* __restrict__ partials, int tiles,
                                       int channels) {
  __shared__ double buffer[kShare][kShare];
  const int c = blockIdx.x * kShare + threadIdx.x;
  double sum_t = 0, sum_t_xhat = 0;
  if (c < channels) {
#pragma unroll 4
    for (int t = threadIdx.y; t < tiles; t += kShare) {
      const float* row = partials + int64_t{t} * kPartialsPerChannel * channels + c;
      sum_t += row[0];
      sum_t_xhat += row[channels];
    }
  }
  sum_t = sum_shares(sum_t, buffer);
  sum_t_xhat = sum_shares(sum_t_xhat, buffer);
  if (threadIdx.y == 0 && c < channels) sums.add(c, sum_t, sum_t_xhat);
}

__global__ void merge_rows_kernel(float* out, const float* __restrict__ rows, int tiles, int taps,
                                  int row_taps, int channels, bool accumulate) {
  __shared__ double buffer[kShare][kShare];
  const int c = blockIdx.x * kShare + threadIdx.x, tap = blockIdx.y;
  double sum = 0;
  if (c < channels) {
#pragma unroll 4
    for (int t = threadIdx.y; t < tiles; t += kShare)
      sum += rows[(int64_t{t} * row_taps + tap) * channels + c];
  }
  sum = sum_shares(sum, buffer);
  if (threadIdx.y != 0 || c >= channels) return;
  float& to = out[int64_t{c} * taps + tap];
  to = static_cast<float>(accumulate ? to + sum : sum);
}

unsigned blocks_of(int channels) {
  return (channels + kShare - 1) / kShare;
}

}  // namespace

void merge_statistics(float* mean, float* var, const float* partials, const TileCounts& counts,
                      int channels, cudaStream_t stream) {
  merge_statistics_kernel<<<blocks_of(channels), dim3(kShare, kShare), 0, stream>>>(
      mean, var, partials, counts, channels);
}

void merge_norm_sums(const NormSums& sums, const float* partials, int tiles, int channels,
                     cudaStream_t stream) {
  merge_norm_sums_kernel<<<blocks_of(channels), dim3(kShare, kShare), 0, stream>>>(sums, partials,
                                                                                   tiles, channels);
}

void merge_rows(float* out, const float* rows, int tiles, int taps, int row_taps, int channels,
                bool accumulate, cudaStream_t stream) {
  merge_rows_kernel<<<dim3(blocks_of(channels), taps), dim3(kShare, kShare), 0, stream>>>(
      out, rows, tiles, taps, row_taps, channels, accumulate);
}

}  // namespace engine::kernels
