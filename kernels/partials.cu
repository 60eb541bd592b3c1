// Merges rows of partial sums: a block takes eight channels, a sector of each row, and its threads
// share the rows.
#include "kernels/partials.cuh"

#include "kernels/device.cuh"
#include "kernels/launch.cuh"

namespace engine::kernels {
namespace {

constexpr int kMergeChannels = 8, kMaxWarps = 32;
constexpr int kMinThreads = kMergeChannels * kWarp, kMaxThreads = kMaxWarps * kWarp;

// This thread's channel and its share of the rows.
struct Share {
  int c = blockIdx.x * kMergeChannels + threadIdx.x % kMergeChannels;
  int first = threadIdx.x / kMergeChannels, step = blockDim.x / kMergeChannels;
};

// What `merged()` threads hold: a channel's sums over all shares, added in a fixed order.
__device__ __forceinline__ int merged_channel() {
  return blockIdx.x * kMergeChannels + threadIdx.x / kWarp;
}
__device__ __forceinline__ bool merged(int channels) {
  return threadIdx.x % kWarp == 0 && threadIdx.x / kWarp < kMergeChannels &&
         merged_channel() < channels;
}
template <int N>
__device__ __forceinline__ void sum_shares(double (&value)[N]) {
  __shared__ double buffer[N][kMaxWarps][kMergeChannels];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int offset = kMergeChannels; offset < kWarp; offset *= 2)
      value[i] += __shfl_xor_sync(0xffffffff, value[i], offset);
    if (lane < kMergeChannels) buffer[i][warp][lane] = value[i];
  }
  __syncthreads();
  if (warp >= kMergeChannels) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    value[i] = lane < static_cast<int>(blockDim.x) / kWarp ? buffer[i][lane][warp] : 0;
    value[i] = warp_sum(value[i]);
  }
}

__global__ void __launch_bounds__(kMaxThreads, 1)
    merge_statistics_kernel(float* mean, float* var, const float* __restrict__ partials,
                            TileCounts counts, int channels) {
  follow_as_merge();
  const Share share;
  const auto value = [&](int tile, int which, int c) {
    return partials[(int64_t{tile} * kPartialsPerChannel + which) * channels + c];
  };
  double sum[2] = {};  // of d and d², d = the distance from the first tile's shift
  if (share.c < channels) {
    const double origin = value(0, 2, share.c);
    const int tiles = counts.tiles();
#pragma unroll 4
    for (int t = share.first; t < tiles; t += share.step) {
      const double n = counts.count(t), s1 = value(t, 0, share.c), s2 = value(t, 1, share.c),
                   d = value(t, 2, share.c) - origin;
      sum[0] += s1 + n * d;
      sum[1] += s2 + d * (2 * s1 + n * d);
    }
  }
  sum_shares(sum);
  if (!merged(channels)) return;
  const int c = merged_channel();
  const double count =
      static_cast<double>(counts.items / counts.strips) * counts.height * counts.width;
  const double shifted = sum[0] / count, variance = sum[1] / count - shifted * shifted;
  mean[c] = static_cast<float>(value(0, 2, c) + shifted);
  var[c] = static_cast<float>(variance < 0 ? 0 : variance);  // NaN stays
}

__global__ void __launch_bounds__(kMaxThreads, 1)
    merge_norm_sums_kernel(NormSums sums, const float* __restrict__ partials, int tiles,
                           int channels) {
  follow_as_merge();
  const Share share;
  double sum[2] = {};  // Σt, Σt·xhat
  if (share.c < channels) {
#pragma unroll 8
    for (int t = share.first; t < tiles; t += share.step) {
      const float* row = partials + int64_t{t} * kPartialsPerChannel * channels + share.c;
      sum[0] += row[0];
      sum[1] += row[channels];
    }
  }
  sum_shares(sum);
  if (merged(channels)) sums.add(merged_channel(), sum[0], sum[1]);
}

__global__ void __launch_bounds__(kMaxThreads, 1)
    merge_taps_kernel(float* out, const float* __restrict__ rows, int tiles, int taps, int row_taps,
                      int channels, bool accumulate) {
  follow_as_merge();
  const Share share;
  const int tap = blockIdx.y;
  double sum[1] = {};
  if (share.c < channels) {
#pragma unroll 8
    for (int t = share.first; t < tiles; t += share.step)
      sum[0] += rows[(int64_t{t} * row_taps + tap) * channels + share.c];
  }
  sum_shares(sum);
  if (!merged(channels)) return;
  float& to = out[int64_t{merged_channel()} * taps + tap];
  to = static_cast<float>(accumulate ? to + sum[0] : sum[0]);
}

unsigned blocks_of(int channels) {
  return (channels + kMergeChannels - 1) / kMergeChannels;
}

// The threads of a block: about eight rows for each.
unsigned threads_of(int tiles) {
  return tiles <= 8 * kMinThreads / kMergeChannels ? kMinThreads : kMaxThreads;
}

}  // namespace

void merge_statistics(float* mean, float* var, const float* partials, const TileCounts& counts,
                      int channels, cudaStream_t stream) {
  launch(merge_statistics_kernel, blocks_of(channels), threads_of(counts.tiles()), 0, stream, mean,
         var, partials, counts, channels);
}

void merge_norm_sums(const NormSums& sums, const float* partials, int tiles, int channels,
                     cudaStream_t stream) {
  launch(merge_norm_sums_kernel, blocks_of(channels), threads_of(tiles), 0, stream, sums, partials,
         tiles, channels);
}

void merge_taps(float* out, const float* rows, int tiles, int taps, int row_taps, int channels,
                bool accumulate, cudaStream_t stream) {
  launch(merge_taps_kernel, dim3(blocks_of(channels), taps), threads_of(tiles), 0, stream, out,
         rows, tiles, taps, row_taps, channels, accumulate);
}

}  // namespace engine::kernels
