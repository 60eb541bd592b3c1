// Squeeze-excite (Hu et al.), gate = sigmoid(expand·silu(reduce·mean(h) + b1) + b2): one sweep over
// the operand, the rest is (N, C) and (N, S) vectors. The sums per image and channel that the gated
// reader's backward takes are here too.
#include "kernels/device.cuh"
#include "kernels/kernels.h"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

constexpr int kImageThreads = 384;

// A block owns a group of channels of one image.
template <class T, int V>
__global__ void __launch_bounds__(kImageThreads, 2)
    image_sums_kernel(float* sum_h, float* sum_slope, float* sum_slope_xhat, const T* dz,
                      int dz_pitch, OperandView<T> in, Sweep sweep) {
  __shared__ float buffer[3 * V * kImageThreads];
  const int c = first_channel<V>();
  float sum[3 * V] = {};  // Σ dz·h, Σ dz·h', Σ dz·h'·xhat
  if (c < in.channels) {
    struct Raw {
      Vector<T, V> x, dz;
    };
    const OperandReader<T, V> reader(in, c);
    for_pixels<kPairsInFlight<T>>(
        sweep,
        [&](int p) {
          Raw raw;
          raw.x = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          if (dz) raw.dz = load_vector<V>(dz + int64_t{p} * dz_pitch + c);
          return raw;
        },
        [&](int, const Raw& raw) {
          Loaded<float> x[V];
          reader.load(x, raw.x, in);
          float factor[V];
          if (dz) to_floats(factor, raw.dz);
#pragma unroll
          for (int k = 0; k < V; ++k) {
            const float d = dz ? factor[k] : 1.f, t = d * x[k].slope;
            sum[k] = fmaf(d, x[k].h, sum[k]);
            sum[V + k] += t;
            sum[2 * V + k] = fmaf(t, x[k].xhat, sum[2 * V + k]);
          }
        });
  }
  sum_rows(sum, buffer);
  if (threadIdx.y != 0) return;
  const float factor = dz ? 1.f : 1.f / static_cast<float>(in.height * in.width);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if (c + k >= in.channels) break;
    const int64_t at = int64_t{blockIdx.y} * in.channels + c + k;
    sum_h[at] = sum[k] * factor;
    sum_slope[at] = sum[V + k];
    sum_slope_xhat[at] = sum[2 * V + k];
  }
}

// The rows of a block: enough threads to fill the device, but at least eight pixels for each.
int image_rows(const Sweep& sweep) {
  const int threads =
      sweep.groups * sweep.tiles < blocks_of_device() / 4 ? kImageThreads : kSweepThreads;
  return std::clamp(sweep.per_tile / 8, 1, threads / sweep.lanes);
}

// ---------------------------------------------------------------- (N, C) and (N, S) vectors

// Images that a warp makes at a time: they share the weights that it reads.
constexpr int kImages = 4;
constexpr int kVectorThreads = 256;
constexpr int kWideThreads = 1024, kWideWarps = kWideThreads / kWarp;

// Sizes of the vectors: N images, C channels, S squeezed.
struct Sizes {
  int batch, channels, squeezed;
};

// u = reduce·pooled + bias; hidden = silu(u), dhidden = silu'(u). A warp makes one hidden unit of
// kImages images from V channels at a time.
template <int V>
__global__ void __launch_bounds__(kVectorThreads, 2)
    hidden_kernel(GateView<float> gate, SqueezeExciteWeights weights, Sizes size) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int s = blockIdx.x * (kVectorThreads / kWarp) + warp, n0 = blockIdx.y * kImages;
  if (s >= size.squeezed) return;
  float sum[kImages] = {};
#pragma unroll 4
  for (int c = lane * V; c < size.channels; c += kWarp * V) {
    const auto w = load_vector<V>(weights.reduce + int64_t{s} * size.channels + c);
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const int n = min(n0 + i, size.batch - 1);
      const auto pooled = load_vector<V>(gate.pooled + int64_t{n} * size.channels + c);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[i] = fmaf(w.at[k], pooled.at[k], sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kImages; ++i) {
    const float u = warp_sum(sum[i]) + weights.reduce_bias[s];
    if (lane != 0 || n0 + i >= size.batch) continue;
    const Activated<float> a = activate<float, false>(Activation::silu, u);
    gate.hidden[int64_t{n0 + i} * size.squeezed + s] = a.h;
    gate.dhidden[int64_t{n0 + i} * size.squeezed + s] = a.slope;
  }
}

// gate = sigmoid(expand·hidden + bias). A block makes 32 channels of 32 images; its weights and
// hidden units pass through shared memory in chunks of 32.
__global__ void __launch_bounds__(kVectorThreads, 4)
    gate_kernel(GateView<float> gate, SqueezeExciteWeights weights, Sizes size) {
  __shared__ float w[kWarp][kWarp + 1], hidden[kWarp][kWarp + 1];  // (channel, s), (image, s)
  constexpr int kRows = kVectorThreads / kWarp;
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp;
  const int c0 = blockIdx.x * kWarp, n0 = blockIdx.y * kWarp;
  float sum[kWarp / kRows] = {};
  for (int s0 = 0; s0 < size.squeezed; s0 += kWarp) {
    const int s = s0 + lane;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kWarp / kRows; ++j) {
      const int i = row + j * kRows;
      w[i][lane] = s < size.squeezed && c0 + i < size.channels
                       ? weights.expand[int64_t{c0 + i} * size.squeezed + s]
                       : 0.f;
      hidden[i][lane] = s < size.squeezed && n0 + i < size.batch
                            ? gate.hidden[int64_t{n0 + i} * size.squeezed + s]
                            : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWarp; ++i)
#pragma unroll
      for (int j = 0; j < kWarp / kRows; ++j)
        sum[j] = fmaf(w[lane][i], hidden[row + j * kRows][i], sum[j]);
  }
  const int c = c0 + lane;
  if (c >= size.channels) return;
#pragma unroll
  for (int j = 0; j < kWarp / kRows; ++j) {
    const int n = n0 + row + j * kRows;
    if (n < size.batch)
      gate.gate[int64_t{n} * size.channels + c] =
          sigmoid<float, false>(sum[j] + weights.expand_bias[c]);
  }
}

// The gradient before the gate's sigmoid: d2 = (Σ dz·h)·s·(1 − s).
__device__ __forceinline__ float before_sigmoid(const GateView<float>& gate, int64_t at) {
  const float s = gate.gate[at];
  return gate.dz_h[at] * s * (1.f - s);
}

// dhidden = d1 = (d2·expand)·silu'(u), over the silu'(u) that forward left. A block makes 32 hidden
// units of kImages images; its warps share the channels.
__global__ void __launch_bounds__(kWideThreads, 1)
    hidden_backward_kernel(GateView<float> gate, SqueezeExciteWeights weights, Sizes size) {
  __shared__ float4 d2[kWideThreads];  // of a channel: one image in each part
  __shared__ float share[kWideWarps][kImages][kWarp];
  static_assert(kImages == 4);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int s = blockIdx.x * kWarp + lane, n0 = blockIdx.y * kImages;
  float sum[kImages] = {};
  for (int c0 = 0; c0 < size.channels; c0 += kWideThreads) {
    const int c = c0 + threadIdx.x;
    const auto of_image = [&](int n) {
      return c < size.channels && n < size.batch
                 ? before_sigmoid(gate, int64_t{n} * size.channels + c)
                 : 0.f;
    };
    __syncthreads();
    d2[threadIdx.x] =
        make_float4(of_image(n0), of_image(n0 + 1), of_image(n0 + 2), of_image(n0 + 3));
    __syncthreads();
    if (s >= size.squeezed) continue;
#pragma unroll 16
    for (int i = warp; i < min(kWideThreads, size.channels - c0); i += kWideWarps) {
      const float w = weights.expand[int64_t{c0 + i} * size.squeezed + s];
      const float4 d = d2[i];
      sum[0] = fmaf(w, d.x, sum[0]);
      sum[1] = fmaf(w, d.y, sum[1]);
      sum[2] = fmaf(w, d.z, sum[2]);
      sum[3] = fmaf(w, d.w, sum[3]);
    }
  }
#pragma unroll
  for (int i = 0; i < kImages; ++i) share[warp][i][lane] = sum[i];
  __syncthreads();
  if (warp >= kImages || s >= size.squeezed || n0 + warp >= size.batch) return;
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWideWarps; ++i) total += share[i][warp][lane];
  gate.dhidden[int64_t{n0 + warp} * size.squeezed + s] *= total;
}

// q = d1·reduce/(H·W), the pooled path's share of dh; and the norm's sums over the images,
// Σt = Σ s·dz_slope + q·slope and Σt·xhat likewise. A block owns 32 channels; a warp takes kImages
// images at a time.
__global__ void __launch_bounds__(kWideThreads, 1)
    pooled_backward_kernel(NormSums sums, GateView<float> gate, SqueezeExciteWeights weights,
                           Sizes size, float per_pixel) {
  __shared__ float4 d1[kWideWarps][kWarp];  // of a warp: 32 hidden units, one image in each part
  __shared__ double share[2][kWideWarps][kWarp];
  static_assert(kImages == 4);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, c = blockIdx.x * kWarp + lane;
  double sum_t = 0, sum_t_xhat = 0;
  for (int n0 = warp * kImages; n0 < size.batch; n0 += kWideWarps * kImages) {
    float q[kImages] = {};
    for (int s0 = 0; s0 < size.squeezed; s0 += kWarp) {
      const int s = s0 + lane;
      const auto of_image = [&](int n) {
        return s < size.squeezed && n < size.batch ? gate.dhidden[int64_t{n} * size.squeezed + s]
                                                   : 0.f;
      };
      __syncwarp();
      d1[warp][lane] =
          make_float4(of_image(n0), of_image(n0 + 1), of_image(n0 + 2), of_image(n0 + 3));
      __syncwarp();
      if (c >= size.channels) continue;
#pragma unroll 16
      for (int j = 0; j < min(kWarp, size.squeezed - s0); ++j) {
        const float w = weights.reduce[int64_t{s0 + j} * size.channels + c];
        const float4 d = d1[warp][j];
        q[0] = fmaf(d.x, w, q[0]);
        q[1] = fmaf(d.y, w, q[1]);
        q[2] = fmaf(d.z, w, q[2]);
        q[3] = fmaf(d.w, w, q[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      if (c >= size.channels || n0 + i >= size.batch) continue;
      const int64_t at = int64_t{n0 + i} * size.channels + c;
      const float of_pixel = q[i] * per_pixel, s = gate.gate[at];
      gate.q[at] = of_pixel;
      sum_t += s * gate.dz_slope[at] + of_pixel * gate.slope[at];
      sum_t_xhat += s * gate.dz_slope_xhat[at] + of_pixel * gate.slope_xhat[at];
    }
  }
  share[0][warp][lane] = sum_t;
  share[1][warp][lane] = sum_t_xhat;
  __syncthreads();
  if (warp != 0 || c >= size.channels || !sums.norm.present()) return;
#pragma unroll 8
  for (int i = 1; i < kWideWarps; ++i) sum_t += share[0][i][lane], sum_t_xhat += share[1][i][lane];
  sums.add(c, sum_t, sum_t_xhat);
}

// dweight (rows, columns) += Σ_n d[n, row]·x[n, column], dbias += Σ_n d[n, row]. For expand d = d2
// and x = hidden; for reduce d = d1 and x = pooled. A block makes 32 × 32 weights.
template <bool Expand>
__global__ void __launch_bounds__(kVectorThreads, 4)
    weight_gradient_kernel(SqueezeExciteGradients gradients, GateView<float> gate, Sizes size) {
  constexpr int kRows = kVectorThreads / kWarp, kChunk = 64;  // images at a time
  __shared__ float d[kChunk][kWarp], x[kChunk][kWarp];        // (image, row), (image, column)
  const int rows = Expand ? size.channels : size.squeezed,
            columns = Expand ? size.squeezed : size.channels;
  const int lane = threadIdx.x % kWarp, first = threadIdx.x / kWarp;
  const int row0 = blockIdx.y * kWarp, column = blockIdx.x * kWarp + lane;
  float sum[kWarp / kRows] = {}, bias = 0;
  for (int n0 = 0; n0 < size.batch; n0 += kChunk) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kChunk / kRows; ++j) {
      const int i = first + j * kRows, n = n0 + i, row = row0 + lane;
      const int64_t at = int64_t{n} * rows + row;
      d[i][lane] = n >= size.batch || row >= rows ? 0.f
                   : Expand                       ? before_sigmoid(gate, at)
                                                  : gate.dhidden[at];
      const float* from = Expand ? gate.hidden : gate.pooled;
      x[i][lane] = n < size.batch && column < columns ? from[int64_t{n} * columns + column] : 0.f;
    }
    __syncthreads();
#pragma unroll 16
    for (int i = 0; i < kChunk; ++i) {
#pragma unroll
      for (int j = 0; j < kWarp / kRows; ++j)
        sum[j] = fmaf(d[i][first + j * kRows], x[i][lane], sum[j]);
      if (first == 0) bias += d[i][lane];
    }
  }
  float* dweight = Expand ? gradients.expand : gradients.reduce;
  float* dbias = Expand ? gradients.expand_bias : gradients.reduce_bias;
#pragma unroll
  for (int j = 0; j < kWarp / kRows; ++j) {
    const int row = row0 + first + j * kRows;
    if (row < rows && column < columns) dweight[int64_t{row} * columns + column] += sum[j];
  }
  if (blockIdx.x == 0 && first == 0 && row0 + lane < rows) dbias[row0 + lane] += bias;
}

unsigned blocks_of(int count, int each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

template <class T>
void ImageSums<T>::take(float* sum_h, float* sum_slope, float* sum_slope_xhat, const T* dz,
                        int dz_pitch, const OperandView<T>& in, cudaStream_t stream) {
  constexpr int V = kSweepVector;
  const auto launch = [&](auto kernel, int v) {
    Sweep sweep = make_sweep(in.pixels(), in.channels, v);
    sweep.per_tile = in.height * in.width;  // a tile is an image
    sweep.tiles = in.batch;
    sweep.rows = image_rows(sweep);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(sum_h, sum_slope, sum_slope_xhat, dz,
                                                       dz_pitch, in, sweep);
  };
  if (vectors_fit<V>(in.x, in.channels, in.pitch) &&
      vectors_fit<V>(dz, in.channels, dz ? dz_pitch : in.channels))
    launch(image_sums_kernel<T, V>, V);
  else
    launch(image_sums_kernel<T, 1>, 1);
}

template <class T>
void SqueezeExcitation<T>::forward(const GateView<float>& gate, const OperandView<T>& in,
                                   const SqueezeExciteWeights& weights, int squeezed,
                                   cudaStream_t stream) {
  const Sizes size{in.batch, in.channels, squeezed};
  ImageSums<T>::take(gate.pooled, gate.slope, gate.slope_xhat, nullptr, 0, in, stream);
  const auto launch_hidden = [&](auto kernel) {
    kernel<<<dim3(blocks_of(squeezed, kVectorThreads / kWarp), blocks_of(in.batch, kImages)),
             kVectorThreads, 0, stream>>>(gate, weights, size);
  };
  if (vectors_fit<4>(gate.pooled, in.channels, in.channels) &&
      vectors_fit<4>(weights.reduce, in.channels, in.channels))
    launch_hidden(hidden_kernel<4>);
  else
    launch_hidden(hidden_kernel<1>);
  gate_kernel<<<dim3(blocks_of(in.channels, kWarp), blocks_of(in.batch, kWarp)), kVectorThreads, 0,
                stream>>>(gate, weights, size);
}

template <class T>
void SqueezeExcitation<T>::backward(const GradientSink<T>& sink, const GateView<float>& gate,
                                    const SqueezeExciteGradients& gradients,
                                    const OperandView<T>& in, const SqueezeExciteWeights& weights,
                                    int squeezed, cudaStream_t stream) {
  const Sizes size{in.batch, in.channels, squeezed};
  const float per_pixel = 1.f / static_cast<float>(in.height * in.width);
  hidden_backward_kernel<<<dim3(blocks_of(squeezed, kWarp), blocks_of(in.batch, kImages)),
                           kWideThreads, 0, stream>>>(gate, weights, size);
  pooled_backward_kernel<<<blocks_of(in.channels, kWarp), kWideThreads, 0, stream>>>(
      norm_sums(sink, in), gate, weights, size, per_pixel);
  weight_gradient_kernel<true><<<dim3(blocks_of(squeezed, kWarp), blocks_of(in.channels, kWarp)),
                                 kVectorThreads, 0, stream>>>(gradients, gate, size);
  weight_gradient_kernel<false><<<dim3(blocks_of(in.channels, kWarp), blocks_of(squeezed, kWarp)),
                                  kVectorThreads, 0, stream>>>(gradients, gate, size);
}

template struct ImageSums<float>;
template struct ImageSums<__half>;
template struct ImageSums<__nv_bfloat16>;
template struct SqueezeExcitation<float>;
template struct SqueezeExcitation<__half>;
template struct SqueezeExcitation<__nv_bfloat16>;

}  // namespace engine::kernels
