// Squeeze-excite (Hu et al.), gate = sigmoid(expand·silu(reduce·mean(h) + b1) + b2): one sweep over
// the operand, the rest is (N, C) and (N, S) vectors. The sums per image and channel that the gated
// reader's backward takes are here too.
#include "kernels/device.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

// ---------------------------------------------------------------- sums over the pixels of an image

constexpr int kImageThreads = 512;
// The threads of a multiprocessor that keep memory busy.
constexpr int kBusyThreads = 640;

// A block owns a group of channels of one image: three sums, of h, h' and h'·xhat, each times dz if
// it is `Weighted`.
template <class T, int V, bool Weighted>
__global__ void __launch_bounds__(kImageThreads, 1)
    image_sums_kernel(float* sum_h, float* sum_slope, float* sum_slope_xhat, const T* dz,
                      int dz_pitch, OperandView<T> in, Sweep sweep) {
  constexpr int kInFlight = Weighted ? 3 : 5;
  __shared__ float buffer[V * kImageThreads];
  follow();
  const int c = first_channel<V>();
  float h[V] = {}, slope[V] = {}, slope_xhat[V] = {};
  if (c < in.channels) {
    struct Raw {
      Vector<T, V> x, dz;
    };
    for_pixels<kInFlight>(
        sweep,
        [&](int p) {
          Raw raw;
          raw.x = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          if constexpr (Weighted) raw.dz = load_vector<V>(dz + int64_t{p} * dz_pitch + c);
          return raw;
        },
        [&] {
          return [&, reader = OperandReader<T, V>(in, c)](int, const Raw& raw) {
            Loaded<float> x[V];
            reader.load(x, raw.x, in);
            float factor[V];
            if constexpr (Weighted) to_floats(factor, raw.dz);
#pragma unroll
            for (int k = 0; k < V; ++k) {
              const float t = Weighted ? factor[k] * x[k].slope : x[k].slope;
              h[k] = Weighted ? fmaf(factor[k], x[k].h, h[k]) : h[k] + x[k].h;
              slope[k] += t;
              slope_xhat[k] = fmaf(t, x[k].xhat, slope_xhat[k]);
            }
          };
        });
  }
  const float factor = Weighted ? 1.f : 1.f / static_cast<float>(in.height * in.width);
  const int64_t row = int64_t{blockIdx.y} * in.channels;
  sum_rows(h, c, in.channels, buffer,
           [&](int channel, float sum) { sum_h[row + channel] = sum * factor; });
  sum_rows(slope, c, in.channels, buffer,
           [&](int channel, float sum) { sum_slope[row + channel] = sum; });
  sum_rows(slope_xhat, c, in.channels, buffer,
           [&](int channel, float sum) { sum_slope_xhat[row + channel] = sum; });
}

// A tile is an image. Blocks are as large as it takes to run all at once and keep memory busy, but
// a thread has at least four pixels.
template <class T>
Sweep image_sweep(const OperandView<T>& in, int vector) {
  Sweep sweep = make_sweep(in.pixels(), in.channels, vector, {4, kSummedGroup, 2});
  sweep.per_tile = in.height * in.width;
  sweep.tiles = in.batch;
  const int blocks = sweep.groups * sweep.tiles;
  const int threads =
      std::clamp(device_limits().multiprocessors * kBusyThreads / blocks, 2 * kWarp, kImageThreads);
  sweep.rows = std::clamp(threads / sweep.lanes, 1, std::max(1, sweep.per_tile / 4));
  return sweep;
}

// ---------------------------------------------------------------- (N, C) and (N, S) vectors

// Images that a warp makes at a time: they share the weights that it reads.
constexpr int kImages = 4;
constexpr int kVectorThreads = 256;
constexpr int kWideThreads = 512, kWideWarps = kWideThreads / kWarp;  // of the backward

// Sizes of the vectors: N images, C channels, S squeezed; 1/(H·W).
struct Sizes {
  int batch, channels, squeezed;
  float per_pixel;
};

template <class T>
Sizes sizes_of(const OperandView<T>& in, int squeezed) {
  return {in.batch, in.channels, squeezed, 1.f / static_cast<float>(in.height * in.width)};
}

// u = reduce·pooled + bias; hidden = silu(u), dhidden = silu'(u). A warp makes one hidden unit of
// kImages images from V channels at a time.
template <int V>
__global__ void __launch_bounds__(kVectorThreads, 2)
    hidden_kernel(GateView<float> gate, SqueezeExciteWeights weights, Sizes size) {
  follow();
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
  follow();
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

unsigned blocks_of(int count, int each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// dhidden = d1 = (d2·expand)·silu'(u), over the silu'(u) that forward left. A block makes 32 hidden
// units of kImages images; its warps share the channels.
struct HiddenBackward {
  float4 d2[kWideThreads];  // of a channel: one image in each part
  float share[kWideWarps][kImages][kWarp];

  static unsigned blocks(const Sizes& size) {
    return blocks_of(size.squeezed, kWarp) * blocks_of(size.batch, kImages);
  }
  __device__ void run(const GateView<float>& gate, const SqueezeExciteWeights& weights,
                      const Sizes& size, int block);
};
static_assert(kImages == 4);

__device__ void HiddenBackward::run(const GateView<float>& gate,
                                    const SqueezeExciteWeights& weights, const Sizes& size,
                                    int block) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int across = (size.squeezed + kWarp - 1) / kWarp;
  const int s = block % across * kWarp + lane, n0 = block / across * kImages;
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
struct PooledBackward {
  float4 d1[kWideWarps][kWarp];  // of a warp: 32 hidden units, one image in each part
  double share[2][kWideWarps][kWarp];

  static unsigned blocks(const Sizes& size) { return blocks_of(size.channels, kWarp); }
  __device__ void run(const NormSums& sums, const GateView<float>& gate,
                      const SqueezeExciteWeights& weights, const Sizes& size, int block);
};

__device__ void PooledBackward::run(const NormSums& sums, const GateView<float>& gate,
                                    const SqueezeExciteWeights& weights, const Sizes& size,
                                    int block) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, c = block * kWarp + lane;
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
      const float of_pixel = q[i] * size.per_pixel, s = gate.gate[at];
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
// and x = hidden; for reduce d = d1 and x = pooled. A block makes 64 × 32 weights, a thread four
// rows of a column.
template <bool Expand>
struct WeightGradient {
  static constexpr int kRows = 4 * kWideWarps, kChunk = 64;  // images at a time
  float d[kChunk][kRows], x[kChunk][kWarp];                  // (image, row), (image, column)

  static __host__ __device__ int rows(const Sizes& size) {
    return Expand ? size.channels : size.squeezed;
  }
  static __host__ __device__ int columns(const Sizes& size) {
    return Expand ? size.squeezed : size.channels;
  }
  static unsigned blocks(const Sizes& size) {
    return blocks_of(rows(size), kRows) * blocks_of(columns(size), kWarp);
  }

  __device__ void stage(const GateView<float>& gate, const Sizes& size, int n0, int row0,
                        int column0) {
    const int rows = this->rows(size), columns = this->columns(size);
    const float* from = Expand ? gate.hidden : gate.pooled;
#pragma unroll
    for (int j = 0; j < kChunk * kRows / kWideThreads; ++j) {
      const int i = (threadIdx.x + j * kWideThreads) / kRows, r = threadIdx.x % kRows;
      const int64_t at = int64_t{n0 + i} * rows + row0 + r;
      d[i][r] = n0 + i >= size.batch || row0 + r >= rows ? 0.f
                : Expand                                 ? before_sigmoid(gate, at)
                                                         : gate.dhidden[at];
    }
#pragma unroll
    for (int j = 0; j < kChunk * kWarp / kWideThreads; ++j) {
      const int i = (threadIdx.x + j * kWideThreads) / kWarp, column = threadIdx.x % kWarp;
      x[i][column] = n0 + i < size.batch && column0 + column < columns
                         ? from[int64_t{n0 + i} * columns + column0 + column]
                         : 0.f;
    }
  }

  __device__ void run(const SqueezeExciteGradients& gradients, const GateView<float>& gate,
                      const Sizes& size, int block) {
    const int rows = this->rows(size), columns = this->columns(size);
    const int across = (columns + kWarp - 1) / kWarp, lane = threadIdx.x % kWarp;
    const int row0 = block / across * kRows, column0 = block % across * kWarp;
    const int first = threadIdx.x / kWarp * 4;
    float sum[4] = {}, bias[4] = {};
    for (int n0 = 0; n0 < size.batch; n0 += kChunk) {
      __syncthreads();
      stage(gate, size, n0, row0, column0);
      __syncthreads();
#pragma unroll 8
      for (int i = 0; i < kChunk; ++i) {
        const Vector<float, 4> of = load_vector<4>(&d[i][first]);
        const float with = x[i][lane];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[j] = fmaf(of.at[j], with, sum[j]);
          bias[j] += of.at[j];
        }
      }
    }
    float* dweight = Expand ? gradients.expand : gradients.reduce;
    float* dbias = Expand ? gradients.expand_bias : gradients.reduce_bias;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = row0 + first + j, column = column0 + lane;
      if (row >= rows) break;
      if (column < columns) dweight[int64_t{row} * columns + column] += sum[j];
      if (column == 0) dbias[row] += bias[j];
    }
  }
};

// What needs the sums of dz only: the hidden layer, and beside it the gradients of expand.
__global__ void __launch_bounds__(kWideThreads, 2)
    expand_backward_kernel(SqueezeExciteGradients gradients, GateView<float> gate,
                           SqueezeExciteWeights weights, Sizes size, int hidden_blocks) {
  __shared__ union {
    HiddenBackward hidden;
    WeightGradient<true> weight;
  } memory;
  follow();
  const int block = blockIdx.x;
  if (block < hidden_blocks)
    memory.hidden.run(gate, weights, size, block);
  else
    memory.weight.run(gradients, gate, size, block - hidden_blocks);
}

// What needs d1: the pooled path, and beside it the gradients of reduce.
__global__ void __launch_bounds__(kWideThreads, 2)
    reduce_backward_kernel(SqueezeExciteGradients gradients, NormSums sums, GateView<float> gate,
                           SqueezeExciteWeights weights, Sizes size, int pooled_blocks) {
  __shared__ union {
    PooledBackward pooled;
    WeightGradient<false> weight;
  } memory;
  follow();
  const int block = blockIdx.x;
  if (block < pooled_blocks)
    memory.pooled.run(sums, gate, weights, size, block);
  else
    memory.weight.run(gradients, gate, size, block - pooled_blocks);
}

}  // namespace

template <class T>
void ImageSums<T>::take(float* sum_h, float* sum_slope, float* sum_slope_xhat, const T* dz,
                        int dz_pitch, const OperandView<T>& in, cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = image_sweep(in, vector);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, sum_h, sum_slope, sum_slope_xhat, dz,
           dz_pitch, in, sweep);
  };
  const bool vectors = vectors_fit<V>(in.x, in.channels, in.pitch) &&
                       vectors_fit<V>(dz, in.channels, dz ? dz_pitch : in.channels);
  if (vectors && dz)
    run(image_sums_kernel<T, V, true>, V);
  else if (vectors)
    run(image_sums_kernel<T, V, false>, V);
  else if (dz)
    run(image_sums_kernel<T, 1, true>, 1);
  else
    run(image_sums_kernel<T, 1, false>, 1);
}

template <class T>
void SqueezeExcitation<T>::forward(const GateView<float>& gate, const OperandView<T>& in,
                                   const SqueezeExciteWeights& weights, int squeezed,
                                   cudaStream_t stream) {
  const Sizes size = sizes_of(in, squeezed);
  ImageSums<T>::take(gate.pooled, gate.slope, gate.slope_xhat, nullptr, 0, in, stream);
  const bool vectors = vectors_fit<4>(gate.pooled, in.channels, in.channels) &&
                       vectors_fit<4>(weights.reduce, in.channels, in.channels);
  launch(vectors ? hidden_kernel<4> : hidden_kernel<1>,
         dim3(blocks_of(squeezed, kVectorThreads / kWarp), blocks_of(in.batch, kImages)),
         kVectorThreads, 0, stream, gate, weights, size);
  launch(gate_kernel, dim3(blocks_of(in.channels, kWarp), blocks_of(in.batch, kWarp)),
         kVectorThreads, 0, stream, gate, weights, size);
}

template <class T>
void SqueezeExcitation<T>::backward(const GradientSink<T>& sink, const GateView<float>& gate,
                                    const SqueezeExciteGradients& gradients,
                                    const OperandView<T>& in, const SqueezeExciteWeights& weights,
                                    int squeezed, cudaStream_t stream) {
  const Sizes size = sizes_of(in, squeezed);
  const unsigned hidden = HiddenBackward::blocks(size), pooled = PooledBackward::blocks(size);
  launch(expand_backward_kernel, hidden + WeightGradient<true>::blocks(size), kWideThreads, 0,
         stream, gradients, gate, weights, size, static_cast<int>(hidden));
  launch(reduce_backward_kernel, pooled + WeightGradient<false>::blocks(size), kWideThreads, 0,
         stream, gradients, norm_sums(sink, in), gate, weights, size, static_cast<int>(pooled));
}

template struct ImageSums<float>;
template struct ImageSums<__half>;
template struct ImageSums<__nv_bfloat16>;
template struct SqueezeExcitation<float>;
template struct SqueezeExcitation<__half>;
template struct SqueezeExcitation<__nv_bfloat16>;

}  // namespace engine::kernels
