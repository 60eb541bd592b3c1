// What the last block of a group of channels does with the partial sums of all: it merges them in
// double, in a fixed order. `buffer` is shared memory that nobody reads any more. Called, not
// inlined: the registers of a block's loop are not planned for these; arguments go by value, or the
// kernel's would be copied to memory.
#pragma once

#include "kernels/banded_tiles.h"
#include "kernels/merge.cuh"

namespace engine::kernels::banded {

// mean and biased variance (C,) of channels [first, first + kChannels) from `partials` (rows, 4,
// C): Σ(x − shift), Σ(x − shift)², shift, count. buffer: 3 doubles for each thread.
template <int kThreads, int kChannels>
__device__ __noinline__ void finish_statistics(float* mean, float* var, const float* partials,
                                               int rows, int first, int channels, double* buffer) {
  constexpr int kShares = kThreads / kChannels;
  const int lane = static_cast<int>(threadIdx.x) % kChannels,
            share = static_cast<int>(threadIdx.x) / kChannels, c = first + lane;
  const bool present = c < channels;
  double sum[3] = {}, origin = 0;  // of d and d², d = the distance from the first row's shift
  if (present) {
    const float* const column = partials + c;
    origin = __ldcg(column + 2 * channels);
#pragma unroll 4
    for (int r = share; r < rows; r += kShares) {
      const float* const row = column + int64_t{r} * kBandedStatistics * channels;
      const double s1 = __ldcg(row), s2 = __ldcg(row + channels), n = __ldcg(row + 3 * channels);
      const double d = __ldcg(row + 2 * channels) - origin;
      sum[0] += s1 + n * d;
      sum[1] += s2 + d * (2 * s1 + n * d);
      sum[2] += n;
    }
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) buffer[(share * 3 + i) * kChannels + lane] = sum[i];
  __syncthreads();
  if (share != 0 || !present) return;
  for (int s = 1; s < kShares; ++s)
#pragma unroll
    for (int i = 0; i < 3; ++i) sum[i] += buffer[(s * 3 + i) * kChannels + lane];
  const double shifted = sum[0] / sum[2], variance = sum[1] / sum[2] - shifted * shifted;
  mean[c] = static_cast<float>(origin + shifted);
  var[c] = static_cast<float>(variance < 0 ? 0 : variance);  // NaN stays
}

// dweight (C, K, K) = and `sums` +=, of channels [first, first + kChannels), from `partials`
// (rows, K·K + 2, C): the weight's gradient, Σt and Σt·xhat. buffer: 4 doubles for each thread.
template <int kThreads, int kChannels, int kTaps>
__device__ __noinline__ void finish_gradients(float* dweight, NormSums sums, bool takes,
                                              const float* partials, int rows, int first,
                                              int channels, double* buffer) {
  constexpr int kRowSums = kTaps + 2, kQuads = kChannels / 4, kItems = kRowSums * kQuads;
  constexpr int kShares = kThreads / kItems, kValues = kItems * 4;
  static_assert(kShares > 0);
  const int me = static_cast<int>(threadIdx.x), item = me % kItems, share = me / kItems;
  const int c = first + item % kQuads * 4;  // a thread sums four channels of one of the sums
  if (share < kShares) {
    double sum[4] = {};
    if (c < channels) {
      const float* const column = partials + int64_t{item / kQuads} * channels + c;
#pragma unroll 8
      for (int r = share; r < rows; r += kShares) {
        const float4 v =
            __ldcg(reinterpret_cast<const float4*>(column + int64_t{r} * kRowSums * channels));
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) buffer[share * kValues + item * 4 + k] = sum[k];
  }
  __syncthreads();
  for (int i = me; i < kValues; i += kThreads) {
    double sum = buffer[i];
    for (int s = 1; s < kShares; ++s) sum += buffer[s * kValues + i];
    buffer[i] = sum;
    const int tap = i / kChannels, channel = first + i % kChannels;
    if (tap < kTaps && channel < channels) dweight[channel * kTaps + tap] = static_cast<float>(sum);
  }
  __syncthreads();
  if (takes && me < kChannels && first + me < channels)
    sums.add(first + me, buffer[kTaps * kChannels + me], buffer[(kTaps + 1) * kChannels + me]);
}

}  // namespace engine::kernels::banded
