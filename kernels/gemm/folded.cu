#include "kernels/gemm/folded.cuh"

#include <algorithm>

#include "kernels/device.cuh"
#include "kernels/launch.cuh"
#include "kernels/packs.cuh"

namespace engine::kernels {
namespace {

constexpr int kFoldThreads = 256, kFinishThreads = 256, kFinishRows = 4;

// φ, p and q of a channel of the output.
struct FoldedTerms {
  float factor, slope, shift;

  template <class T>
  __device__ __forceinline__ FoldedTerms(const GradientView<T>& dy, int o) {
    const ChannelNorm<float> norm = dy.norm.channel(o);
    factor = dy.scaled ? norm.scale() : 1.f;
    slope = dy.k1[o] * norm.inv_std;
    shift = fmaf(slope, norm.mean, -dy.k0[o]);
  }
};

// A power of two of about the size of `most`, by which a 16-bit type holds what is divided.
__device__ __forceinline__ float unit_of(float most) {
  return most > 0 ? exp2f(static_cast<float>(ilogbf(most))) : 1.f;
}

// A block folds the weights of one channel c of the operand.
template <class T>
__global__ void __launch_bounds__(kFoldThreads)
    fold_kernel(const __grid_constant__ GradientView<T> dy, const T* __restrict__ weight,
                const __grid_constant__ FoldedMemory<T> to, int channels) {
  __shared__ float of_g[kFoldedMostOuts], of_y[kFoldedMostOuts], most[2];
  __shared__ float products[kFoldThreads * kPack];  // (shares, C)
  const int c = blockIdx.x, me = threadIdx.x;
  for (int o = me; o < dy.channels; o += kFoldThreads)
    of_g[o] = static_cast<float>(weight[int64_t{o} * channels + c]);
  follow();
  float offset = 0;
  for (int o = me; o < dy.channels; o += kFoldThreads) {
    const FoldedTerms terms(dy, o);
    const float w = of_g[o];
    of_g[o] = terms.factor * w;
    of_y[o] = terms.slope * w;
    offset = fmaf(terms.shift, w, offset);
  }
  __syncthreads();
  // A pack of channels of Wᵀ · p · W, which every `shares`-th thread shares.
  const int packs = channels / kPack, shares = min(kFoldThreads / packs, dy.channels);
  const int pack = me % packs, share = me / packs;
  if (share < shares) {
    float sum[kPack] = {}, w[kPack];
#pragma unroll 8
    for (int o = share; o < dy.channels; o += shares) {
      to_floats(w, load_vector<kPack>(weight + int64_t{o} * channels + pack * kPack));
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum[k] = fmaf(of_y[o], w[k], sum[k]);
    }
#pragma unroll
    for (int k = 0; k < kPack; ++k) products[share * channels + pack * kPack + k] = sum[k];
  }
  __syncthreads();
  for (int k = me; k < channels; k += kFoldThreads) {
    float product = 0;
#pragma unroll 8
    for (int i = 0; i < shares; ++i) product += products[i * channels + k];
    products[k] = product;
  }
  __syncthreads();
  if (me < kWarp) {
    float g = 0, y = 0;
    for (int o = me; o < dy.channels; o += kWarp) g = fmaxf(g, fabsf(of_g[o]));
    for (int i = me; i < channels; i += kWarp) y = fmaxf(y, fabsf(products[i]));
#pragma unroll
    for (int far = kWarp / 2; far > 0; far /= 2) {
      g = fmaxf(g, __shfl_xor_sync(0xffffffff, g, far));
      y = fmaxf(y, __shfl_xor_sync(0xffffffff, y, far));
    }
    if (me == 0) most[0] = unit_of(g), most[1] = unit_of(y);
  }
  __syncthreads();
  const float unit = most[0], unit_of_f = most[1];
  for (int o = me; o < dy.channels; o += kFoldThreads)
    to.folded[int64_t{o} * channels + c] = T(of_g[o] / unit);
  // In two parts, for what is rounded off here is rounded off alike at every pixel.
  for (int k = me; k < channels; k += kFoldThreads) {
    const float value = -products[k] / unit_of_f;
    const T high = T(value);
    T* const rows = to.folded + int64_t{dy.channels + k} * channels + c;
    rows[0] = high;
    rows[channels * channels] = T(value - static_cast<float>(high));
  }
  __shared__ float offsets[kFoldThreads / kWarp];
  offset = warp_sum(offset);
  if (me % kWarp == 0) offsets[me / kWarp] = offset;
  __syncthreads();
  if (me > 0) return;
  for (int i = 1; i < kFoldThreads / kWarp; ++i) offset += offsets[i];
  to.ratio[c] = unit_of_f / unit;
  to.offset[c] = offset / unit;
  to.unit[c] = unit;
}

// dW from the sums of all pixels: a thread makes some rows of one channel of the operand.
template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(float* __restrict__ dweight, const __grid_constant__ GradientView<T> dy,
                  const T* __restrict__ weight, const float* __restrict__ sums, int channels) {
  __shared__ double weights[kFinishRows * kFinishThreads];
  const int width = min(channels, kFinishThreads), sets = kFinishThreads / width;
  const int c = blockIdx.y * width + threadIdx.x % width, set = threadIdx.x / width;
  const int first = blockIdx.x * sets * kFinishRows;  // row of the block
  const float* const of_f = sums + int64_t{dy.channels} * channels;
  double of_y[kFinishRows] = {};
  const int own = set * kFinishRows;
  // A run of the operand's channels at a time, whose weights the block shares.
  for (int from = 0; from < channels; from += width) {
    const int run = min(width, channels - from);
    __syncthreads();
    for (int i = threadIdx.x; i < sets * kFinishRows * run; i += kFinishThreads) {
      const int o = first + i / run;
      weights[i / run * width + i % run] =
          o < dy.channels
              ? double{static_cast<float>(weight[int64_t{o} * channels + from + i % run])}
              : 0.;
    }
    if (from == 0) follow();
    __syncthreads();
    if (set >= sets || c >= channels) continue;
#pragma unroll 32  // loads under way
    for (int k = 0; k < run; ++k) {
      const double f = double{of_f[(from + k) * channels + c]};
#pragma unroll
      for (int r = 0; r < kFinishRows; ++r) of_y[r] += weights[(own + r) * width + k] * f;
    }
  }
  if (set >= sets || c >= channels) return;
#pragma unroll
  for (int r = 0; r < kFinishRows; ++r) {
    const int o = first + own + r;
    if (o >= dy.channels) return;
    const FoldedTerms terms(dy, o);
    const int64_t at = int64_t{o} * channels + c;
    dweight[at] = static_cast<float>(terms.factor * double{sums[at]} - terms.slope * of_y[r] +
                                     double{terms.shift} * of_f[channels * channels + c]);
  }
}

}  // namespace

template <class T>
void fold_weights(const FoldedMemory<T>& to, const GradientView<T>& dy, const T* weight,
                  int channels, cudaStream_t stream) {
  launch(fold_kernel<T>, channels, kFoldThreads, 0, stream, dy, weight, to, channels);
}

template <class T>
void finish_weight(float* dweight, const FoldedMemory<T>& from, const GradientView<T>& dy,
                   const T* weight, int channels, cudaStream_t stream) {
  const int width = std::min(channels, kFinishThreads), rows = kFinishThreads / width * kFinishRows;
  const auto up = [](int n, int each) { return (n + each - 1) / each; };
  launch(finish_kernel<T>, dim3(up(dy.channels, rows), up(channels, width)), kFinishThreads, 0,
         stream, dweight, dy, weight, from.sums, channels);
}

template void fold_weights(const FoldedMemory<__half>&, const GradientView<__half>&, const __half*,
                           int, cudaStream_t);
template void finish_weight(float*, const FoldedMemory<__half>&, const GradientView<__half>&,
                            const __half*, int, cudaStream_t);
template void fold_weights(const FoldedMemory<__nv_bfloat16>&, const GradientView<__nv_bfloat16>&,
                           const __nv_bfloat16*, int, cudaStream_t);
template void finish_weight(float*, const FoldedMemory<__nv_bfloat16>&,
                            const GradientView<__nv_bfloat16>&, const __nv_bfloat16*, int,
                            cudaStream_t);

}  // namespace engine::kernels
