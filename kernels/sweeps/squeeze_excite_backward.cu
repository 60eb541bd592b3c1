// The backward of squeeze-excite: (N, C) and (N, S) vectors, in two kernels of two kinds of blocks,
// side by side. What they move is little; each asks for what it reads in as few turns as it can.
#include "kernels/device.cuh"
#include "kernels/launch.cuh"
#include "kernels/sweeps/squeeze_excite.cuh"
#include "kernels/vector.cuh"

namespace engine::kernels {
namespace {

constexpr int kWideThreads = 512, kWideWarps = kWideThreads / kWarp;

// The gradient before the gate's sigmoid: d2 = (Σ dz·h)·s·(1 − s).
__device__ __forceinline__ float before_sigmoid(const GateView<float>& gate, int64_t at) {
  const float s = gate.gate[at];
  return gate.dz_h[at] * s * (1.f - s);
}

// dhidden = d1 = (d2·expand)·silu'(u), over the silu'(u) that forward left. A block makes 32 hidden
// units of kImages images; its warps share the channels. All that a chunk of channels reads is
// asked for at once.
struct HiddenBackward {
  static constexpr int kRows = kWideThreads / kWideWarps;  // channels of a chunk that a warp takes
  float4 d2[kWideThreads];                                 // of a channel: one image in each part
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
    float w[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int c = c0 + warp + i * kWideWarps;
      w[i] = c < size.channels && s < size.squeezed ? weights.expand[int64_t{c} * size.squeezed + s]
                                                    : 0.f;
    }
    const int c = c0 + threadIdx.x;
    const auto of_image = [&](int n) {
      return c < size.channels && n < size.batch
                 ? before_sigmoid(gate, int64_t{n} * size.channels + c)
                 : 0.f;
    };
    const float4 d =
        make_float4(of_image(n0), of_image(n0 + 1), of_image(n0 + 2), of_image(n0 + 3));
    __syncthreads();  // the chunk before is read
    d2[threadIdx.x] = d;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float4 of = d2[warp + i * kWideWarps];
      sum[0] = fmaf(w[i], of.x, sum[0]);
      sum[1] = fmaf(w[i], of.y, sum[1]);
      sum[2] = fmaf(w[i], of.z, sum[2]);
      sum[3] = fmaf(w[i], of.w, sum[3]);
    }
  }
#pragma unroll
  for (int i = 0; i < kImages; ++i) share[warp][i][lane] = sum[i];
  float* const mine = gate.dhidden + int64_t{n0 + warp} * size.squeezed + s;
  const bool finishes = warp < kImages && s < size.squeezed && n0 + warp < size.batch;
  const float slope = finishes ? *mine : 0.f;
  __syncthreads();
  if (!finishes) return;
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWideWarps; ++i) total += share[i][warp][lane];
  *mine = slope * total;
}

// q = d1·reduce/(H·W), the pooled path's share of dh; and the norm's sums over the images,
// Σt = Σ s·dz_slope + q·slope and Σt·xhat likewise. A block owns 32 channels; a warp takes kImages
// of the block's images at a time. d1 and reduce pass through shared memory, 32 hidden units of all
// these images at a time.
struct PooledBackward {
  static constexpr int kStaged = kWideWarps * kImages;
  alignas(16) float d1[kStaged][kWarp];  // (image, hidden unit)
  float w[kWarp][kWarp];                 // (hidden unit, channel)
  double share[2][kWideWarps][kWarp];

  static unsigned blocks(const Sizes& size) { return blocks_of(size.channels, kWarp); }
  __device__ void run(const NormSums& sums, const GateView<float>& gate,
                      const SqueezeExciteWeights& weights, const Sizes& size, int block);
  // q·(H·W) of the warp's images, from the staged images from n0 on.
  __device__ __forceinline__ void multiply(float (&q)[kImages], const GateView<float>& gate,
                                           const SqueezeExciteWeights& weights, const Sizes& size,
                                           int n0, int c);
};

__device__ __forceinline__ void PooledBackward::multiply(float (&q)[kImages],
                                                         const GateView<float>& gate,
                                                         const SqueezeExciteWeights& weights,
                                                         const Sizes& size, int n0, int c) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int s0 = 0; s0 < size.squeezed; s0 += kWarp) {
    float of_d1[kImages], of_w[kWarp / kWideWarps];
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const int n = n0 + warp + i * kWideWarps, s = s0 + lane;
      of_d1[i] =
          n < size.batch && s < size.squeezed ? gate.dhidden[int64_t{n} * size.squeezed + s] : 0.f;
    }
#pragma unroll
    for (int i = 0; i < kWarp / kWideWarps; ++i) {
      const int s = s0 + warp + i * kWideWarps;
      of_w[i] = s < size.squeezed && c < size.channels
                    ? weights.reduce[int64_t{s} * size.channels + c]
                    : 0.f;
    }
    __syncthreads();  // the units before are read
#pragma unroll
    for (int i = 0; i < kImages; ++i) d1[warp + i * kWideWarps][lane] = of_d1[i];
#pragma unroll
    for (int i = 0; i < kWarp / kWideWarps; ++i) w[warp + i * kWideWarps][lane] = of_w[i];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kWarp; j += 4)
#pragma unroll
      for (int i = 0; i < kImages; ++i) {
        const auto d = load_vector<4>(&d1[warp + i * kWideWarps][j]);
#pragma unroll
        for (int k = 0; k < 4; ++k) q[i] = fmaf(d.at[k], w[j + k][lane], q[i]);
      }
  }
}

__device__ void PooledBackward::run(const NormSums& sums, const GateView<float>& gate,
                                    const SqueezeExciteWeights& weights, const Sizes& size,
                                    int block) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, c = block * kWarp + lane;
  double sum_t = 0, sum_t_xhat = 0;
  for (int n0 = 0; n0 < size.batch; n0 += kStaged) {
    struct {
      float s, dz_slope, dz_slope_xhat, slope, slope_xhat;
    } of[kImages] = {};
    const auto exists = [&](int i) {
      return c < size.channels && n0 + warp + i * kWideWarps < size.batch;
    };
    const auto at = [&](int i) { return int64_t{n0 + warp + i * kWideWarps} * size.channels + c; };
#pragma unroll
    for (int i = 0; i < kImages; ++i)
      if (exists(i))
        of[i] = {gate.gate[at(i)], gate.dz_slope[at(i)], gate.dz_slope_xhat[at(i)],
                 gate.slope[at(i)], gate.slope_xhat[at(i)]};
    float q[kImages] = {};
    multiply(q, gate, weights, size, n0, c);
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const float of_pixel = q[i] * size.per_pixel;
      if (exists(i)) gate.q[at(i)] = of_pixel;
      sum_t += of[i].s * of[i].dz_slope + of_pixel * of[i].slope;
      sum_t_xhat += of[i].s * of[i].dz_slope_xhat + of_pixel * of[i].slope_xhat;
    }
  }
  share[0][warp][lane] = sum_t;
  share[1][warp][lane] = sum_t_xhat;
  __syncthreads();
  if (warp != 0 || c >= size.channels || !sums.norm.present()) return;
#pragma unroll
  for (int i = 1; i < kWideWarps; ++i) sum_t += share[0][i][lane], sum_t_xhat += share[1][i][lane];
  sums.add(c, sum_t, sum_t_xhat);
}

// dweight (rows, columns) += Σ_n d[n, row]·x[n, column], dbias += Σ_n d[n, row]. For expand d = d2
// and x = hidden; for reduce d = d1 and x = pooled. A block makes 64 × 32 weights, a thread four
// rows of a column. The next images are asked for while those before are multiplied.
template <bool Expand>
struct WeightGradient {
  static constexpr int kRows = 4 * kWideWarps, kChunk = 64;  // images at a time
  static constexpr int kOfD = kChunk * kRows / kWideThreads, kOfX = kChunk * kWarp / kWideThreads;
  alignas(16) float d[kChunk][kRows];  // (image, row)
  float x[kChunk][kWarp];              // (image, column)

  static __host__ __device__ int rows(const Sizes& size) {
    return Expand ? size.channels : size.squeezed;
  }
  static __host__ __device__ int columns(const Sizes& size) {
    return Expand ? size.squeezed : size.channels;
  }
  static unsigned blocks(const Sizes& size) {
    return blocks_of(rows(size), kRows) * blocks_of(columns(size), kWarp);
  }

  // What a thread stages.
  struct Staged {
    float d[kOfD], x[kOfX];

    __device__ __forceinline__ void load(const GateView<float>& gate, const Sizes& size, int n0,
                                         int row0, int column0) {
      const int rows = WeightGradient::rows(size), columns = WeightGradient::columns(size);
      const float* from = Expand ? gate.hidden : gate.pooled;
      const int row = row0 + threadIdx.x % kRows, column = column0 + threadIdx.x % kWarp;
#pragma unroll
      for (int j = 0; j < kOfD; ++j) {
        const int n = n0 + threadIdx.x / kRows + j * (kWideThreads / kRows);
        const int64_t at = int64_t{n} * rows + row;
        d[j] = n >= size.batch || row >= rows ? 0.f
               : Expand                       ? before_sigmoid(gate, at)
                                              : gate.dhidden[at];
      }
#pragma unroll
      for (int j = 0; j < kOfX; ++j) {
        const int n = n0 + threadIdx.x / kWarp + j * kWideWarps;
        x[j] = n < size.batch && column < columns ? from[int64_t{n} * columns + column] : 0.f;
      }
    }
    __device__ __forceinline__ void store(WeightGradient& to) const {
#pragma unroll
      for (int j = 0; j < kOfD; ++j)
        to.d[threadIdx.x / kRows + j * (kWideThreads / kRows)][threadIdx.x % kRows] = d[j];
#pragma unroll
      for (int j = 0; j < kOfX; ++j)
        to.x[threadIdx.x / kWarp + j * kWideWarps][threadIdx.x % kWarp] = x[j];
    }
  };

  __device__ void run(const SqueezeExciteGradients& gradients, const GateView<float>& gate,
                      const Sizes& size, int block) {
    const int rows = this->rows(size), columns = this->columns(size);
    const int across = (columns + kWarp - 1) / kWarp;
    const int row0 = block / across * kRows, column0 = block % across * kWarp;
    const int first = threadIdx.x / kWarp * 4, column = column0 + threadIdx.x % kWarp;
    const bool takes_bias = column0 == 0 && threadIdx.x < kRows;
    float sum[4] = {}, bias = 0;
    Staged staged;
    staged.load(gate, size, 0, row0, column0);
    for (int n0 = 0; n0 < size.batch; n0 += kChunk) {
      __syncthreads();  // the images before are read
      staged.store(*this);
      __syncthreads();
      if (n0 + kChunk < size.batch) staged.load(gate, size, n0 + kChunk, row0, column0);
#pragma unroll 8
      for (int i = 0; i < kChunk; ++i) {
        const Vector<float, 4> of = load_vector<4>(&d[i][first]);
        const float with = x[i][threadIdx.x % kWarp];
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] = fmaf(of.at[j], with, sum[j]);
      }
      if (!takes_bias) continue;
#pragma unroll 8
      for (int i = 0; i < kChunk; ++i) bias += d[i][threadIdx.x];
    }
    float* const dweight = Expand ? gradients.expand : gradients.reduce;
    float* const dbias = Expand ? gradients.expand_bias : gradients.reduce_bias;
    const auto inside = [&](int j) { return row0 + first + j < rows && column < columns; };
    const auto at = [&](int j) { return int64_t{row0 + first + j} * columns + column; };
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (inside(j)) sum[j] += dweight[at(j)];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (inside(j)) dweight[at(j)] = sum[j];
    const int row = row0 + static_cast<int>(threadIdx.x);
    if (takes_bias && row < rows) dbias[row] += bias;
  }
};

// What needs the sums of dz only: the hidden layer, and beside it the gradients of expand.
__global__ void __launch_bounds__(kWideThreads, 1)
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

void squeeze_excite_backward(const SqueezeExciteGradients& gradients, const NormSums& sums,
                             const GateView<float>& gate, const SqueezeExciteWeights& weights,
                             const Sizes& size, cudaStream_t stream) {
  const unsigned hidden = HiddenBackward::blocks(size), pooled = PooledBackward::blocks(size);
  launch(expand_backward_kernel, hidden + WeightGradient<true>::blocks(size), kWideThreads, 0,
         stream, gradients, gate, weights, size, static_cast<int>(hidden));
  launch(reduce_backward_kernel, pooled + WeightGradient<false>::blocks(size), kWideThreads, 0,
         stream, gradients, sums, gate, weights, size, static_cast<int>(pooled));
}

}  // namespace engine::kernels
