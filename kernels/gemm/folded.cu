#include "kernels/gemm/folded.cuh"

#include "kernels/device.cuh"
#include "kernels/launch.cuh"
#include "kernels/packs.cuh"

namespace engine::kernels {
namespace {

constexpr int kFoldThreads = 256, kFinishThreads = 256;

// φ, p and q of a channel of the output.
struct NarrowTerms {
  float factor, slope, shift;

  template <class T>
  __device__ __forceinline__ NarrowTerms(const GradientView<T>& dy, int o) {
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
                const __grid_constant__ NarrowMemory<T> to, int channels) {
  constexpr int kOuts = kNarrowOuts * kNarrowWarpgroups;
  __shared__ Pack<T> weights[kOuts * kNarrowColumns / kPack];  // (C', C)
  __shared__ float of_g[kOuts], of_y[kOuts], products[kFoldThreads], most[2];
  const int c = blockIdx.x, me = threadIdx.x;
  for (int i = me; i < dy.channels * channels / kPack; i += kFoldThreads)
    weights[i] = load_vector<kPack>(weight + i * kPack);
  const auto weight_of = [&](int o, int of) {
    return static_cast<float>(weights[(o * channels + of) / kPack].at[of % kPack]);
  };
  __syncthreads();
  follow();
  float offset = 0;
  for (int o = me; o < kOuts; o += kFoldThreads) {
    of_g[o] = of_y[o] = 0;
    if (o >= dy.channels) continue;
    const NarrowTerms terms(dy, o);
    const float w = weight_of(o, c);
    of_g[o] = terms.factor * w;
    of_y[o] = terms.slope * w;
    offset = fmaf(terms.shift, w, offset);
  }
  __syncthreads();
  // Channel k of Wᵀ · p · W, which every `shares`-th thread shares.
  const int k = me % channels, share = me / channels, shares = kFoldThreads / channels;
  float product = 0;
  if (share < shares)
    for (int o = share; o < dy.channels; o += shares)
      product = fmaf(of_y[o], weight_of(o, k), product);
  products[me] = product;
  __syncthreads();
  if (me < channels) {
    for (int i = 1; i < shares; ++i) product += products[i * channels + me];
    products[me] = product;
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
  if (me < channels) {
    const float value = -products[me] / unit_of_f;
    const T high = T(value);
    T* const rows = to.folded + int64_t{dy.channels + me} * channels + c;
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

// dW from the sums of all pixels: a block makes some rows, a thread one channel of the operand.
template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(float* __restrict__ dweight, const __grid_constant__ GradientView<T> dy,
                  const T* __restrict__ weight, const float* __restrict__ sums, int channels) {
  __shared__ double squares[kNarrowColumns * kNarrowColumns], weights[kFinishThreads];
  const int rows = kFinishThreads / channels, r = threadIdx.x / channels,
            c = threadIdx.x - r * channels, o = blockIdx.x * rows + r;
  const bool mine = r < rows && o < dy.channels;
  const int64_t at = int64_t{o} * channels + c;
  if (mine) weights[threadIdx.x] = double{static_cast<float>(weight[at])};
  follow();
  const float* const of_f = sums + int64_t{dy.channels} * channels;
  for (int i = threadIdx.x; i < channels * channels; i += kFinishThreads)
    squares[i] = double{of_f[i]};
  __syncthreads();
  if (!mine) return;
  const NarrowTerms terms(dy, o);
  double of_y = 0;
#pragma unroll 8
  for (int k = 0; k < channels; ++k) of_y += weights[r * channels + k] * squares[k * channels + c];
  dweight[at] = static_cast<float>(terms.factor * double{sums[at]} - terms.slope * of_y +
                                   double{terms.shift} * of_f[channels * channels + c]);
}

}  // namespace

template <class T>
void fold_weights(const NarrowMemory<T>& to, const GradientView<T>& dy, const T* weight,
                  int channels, cudaStream_t stream) {
  launch(fold_kernel<T>, channels, kFoldThreads, 0, stream, dy, weight, to, channels);
}

template <class T>
void finish_weight(float* dweight, const NarrowMemory<T>& from, const GradientView<T>& dy,
                   const T* weight, int channels, cudaStream_t stream) {
  const int rows = kFinishThreads / channels, blocks = (dy.channels + rows - 1) / rows;
  launch(finish_kernel<T>, blocks, kFinishThreads, 0, stream, dweight, dy, weight, from.sums,
         channels);
}

template void fold_weights(const NarrowMemory<__half>&, const GradientView<__half>&, const __half*,
                           int, cudaStream_t);
template void finish_weight(float*, const NarrowMemory<__half>&, const GradientView<__half>&,
                            const __half*, int, cudaStream_t);
template void fold_weights(const NarrowMemory<__nv_bfloat16>&, const GradientView<__nv_bfloat16>&,
                           const __nv_bfloat16*, int, cudaStream_t);
template void finish_weight(float*, const NarrowMemory<__nv_bfloat16>&,
                            const GradientView<__nv_bfloat16>&, const __nv_bfloat16*, int,
                            cudaStream_t);

}  // namespace engine::kernels
