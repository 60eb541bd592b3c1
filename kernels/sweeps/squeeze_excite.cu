// Squeeze-excite (Hu et al.), gate = sigmoid(expand·silu(reduce·mean(h) + b1) + b2): one sweep over
// the operand, the rest is (N, C) and (N, S) vectors. The sums per image and channel that the gated
// reader's backward takes are here too; the backward is in squeeze_excite_backward.cu.
#include "kernels/sweeps/squeeze_excite.cuh"

#include "kernels/device.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

// ---------------------------------------------------------------- sums over the pixels of an image

constexpr int kImageThreads = 512;  // of a block, and of a multiprocessor, by their registers

// As the reader loads, but SiLU takes one special function and not two, which would be the limit of
// the sweep: silu(u) = v + v·tanh(v) with v = u / 2.
template <class T, int V>
__device__ __forceinline__ void load_for_sums(Loaded<float> (&out)[V], const Vector<T, V>& x,
                                              const OperandReader<T, V>& reader,
                                              const OperandView<T>& in) {
  if (!kFast<T> || in.act != Activation::silu) return reader.load(out, x, in);
  float raw[V];
  to_floats(raw, x);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const FoldedNorm& norm = reader.norm[k];
    const float centred = raw[k] - norm.mean;
    const float v = 0.5f * fmaf(norm.scale(), centred, norm.beta), t = tanh_approximate(v);
    const float h = fmaf(v, t, v), sigmoid = fmaf(0.5f, t, 0.5f);
    out[k] = {centred * norm.inv_std, h, fmaf(-h, sigmoid, sigmoid + h)};
  }
}

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
            load_for_sums(x, raw.x, reader, in);
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

// A tile is an image. The groups of channels and the rows of a block that leave a thread the fewest
// pixels, one after the other, with `resident` blocks on a multiprocessor.
template <class T>
Sweep image_sweep(const OperandView<T>& in, int vector) {
  constexpr int kStart = 8;  // what a block does once, in pixels of a thread
  const auto up = [](int a, int b) { return (a + b - 1) / b; };
  const int area = in.height * in.width;
  Sweep best{};
  int64_t least = INT64_MAX;
  for (int group = 64; group <= 512; group += 64)
    for (int resident = 1; resident <= 8; ++resident) {
      Sweep sweep = make_sweep(in.pixels(), in.channels, vector, {4, group, 2});
      const int threads = kImageThreads / resident / kWarp * kWarp;
      if (threads < sweep.lanes) continue;
      sweep.per_tile = area;
      sweep.tiles = in.batch;
      sweep.rows = std::min(threads / sweep.lanes, area);
      const int waves = up(sweep.groups * in.batch, device_limits().multiprocessors * resident);
      const int64_t time = int64_t{waves} * (up(area, sweep.rows) + kStart);
      if (time >= least) continue;
      least = time;
      best = sweep;
    }
  return best;
}

// ---------------------------------------------------------------- (N, C) and (N, S) vectors

constexpr int kVectorThreads = 256;

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
  squeeze_excite_backward(gradients, norm_sums(sink, in), gate, weights, sizes_of(in, squeezed),
                          stream);
}

template struct ImageSums<float>;
template struct ImageSums<__half>;
template struct ImageSums<__nv_bfloat16>;
template struct SqueezeExcitation<float>;
template struct SqueezeExcitation<__half>;
template struct SqueezeExcitation<__nv_bfloat16>;

}  // namespace engine::kernels
