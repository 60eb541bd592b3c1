// Depthwise convolution, forward: reads the operand once, transformed while a block stages it in
// shared memory, and takes the statistics of what it writes. A thread keeps two channels and
// computes some outputs of a row at a time.
#include "kernels/depthwise/stage.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {
namespace {

constexpr int kForwardVector = 2;

// Padding is Kernel / 2. The operand has no gate.
template <class T, int Kernel, int Stride>
__global__ void __launch_bounds__(kDepthwiseThreads, depthwise_blocks(Kernel))
    depthwise_forward_kernel(SliceView<T> out, OperandView<T> in, const T* __restrict__ weight,
                             DepthwiseTiles tiles, float* partials) {
  constexpr int V = kForwardVector, kPadding = Kernel / 2, kTaps = Kernel * Kernel;
  constexpr int kColumns = (kUnit<Stride> - 1) * Stride + Kernel;  // of the operand
  extern __shared__ float shared[];
  float* staged = shared + kTaps * kDepthwisePitch;
  const int lane = threadIdx.x * V, c = first_channel<V>();
  const int image_size = tiles.staged_rows * tiles.staged_columns * kDepthwisePitch;
  OutputWriter<T, V> writer;

  const StagingThread staging(tiles);
  const OperandReader<T, kStagedVector> reader(in, staging.channel(tiles));
  stage_weights<kTaps>(shared, weight, tiles, out.channels);

  for_stages(tiles, [&](const Stage& stage) {
    __syncthreads();  // the last stage may still be read
    for (int i = 0; i < stage.images; ++i)
      staging.stage(
          staged + i * image_size, tiles, (stage.rows - 1) * Stride + Kernel, in, stage.n + i,
          stage.row * Stride - kPadding, stage.unit * kUnit<Stride> * Stride - kPadding,
          [&](int p) {
            return load_vector<kStagedVector>(in.x + int64_t{p} * in.pitch + reader.c);
          },
          [&](float(&f)[kStagedVector], const Vector<T, kStagedVector>& raw) {
            Loaded<float> loaded[kStagedVector];
            reader.load(loaded, raw, in);
#pragma unroll
            for (int k = 0; k < kStagedVector; ++k) f[k] = loaded[k].h;
          });
    __syncthreads();
    if (c >= out.channels) return;

    for_units(stage, [&](int image, int row, int unit) {
      const float* from =
          staged + image * image_size + lane +
          (row * tiles.staged_columns + unit * kUnit<Stride>)*Stride * kDepthwisePitch;
      float sum[kUnit<Stride>][V] = {};
#pragma unroll
      for (int ky = 0; ky < Kernel; ++ky) {
        Vector<float, V> f[kColumns];
#pragma unroll
        for (int i = 0; i < kColumns; ++i)
          f[i] = load_vector<V>(from + (ky * tiles.staged_columns + i) * kDepthwisePitch);
#pragma unroll
        for (int kx = 0; kx < Kernel; ++kx) {
          const Vector<float, V> w =
              load_vector<V>(shared + (ky * Kernel + kx) * kDepthwisePitch + lane);
#pragma unroll
          for (int x = 0; x < kUnit<Stride>; ++x)
#pragma unroll
            for (int k = 0; k < V; ++k)
              sum[x][k] = fmaf(f[x * Stride + kx].at[k], w.at[k], sum[x][k]);
        }
      }
      const int column = (stage.unit + unit) * kUnit<Stride>;
      const int64_t p =
          (int64_t{stage.n + image} * out.height + stage.row + row) * out.width + column;
#pragma unroll
      for (int x = 0; x < kUnit<Stride>; ++x) {
        if (column + x >= out.width) break;
        writer.store(out.y + (p + x) * out.pitch + c, sum[x]);
      }
    });
  });
  if (out.mean) writer.statistics.leave(partials, c, out.channels, shared);
}

// Any shape and operand; one channel per thread, nothing kept between pixels.
template <class T>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise_forward_general_kernel(SliceView<T> out, OperandView<T> in,
                                     const T* __restrict__ weight, Window window,
                                     DepthwiseTiles tiles, float* partials) {
  extern __shared__ float shared[];
  const int c = first_channel<1>();
  OutputWriter<T, 1> writer;

  if (c < out.channels) {
    const OperandReader<T, 1> reader(in, c);
    for_stages(tiles, [&](const Stage& stage) {
      for_units(stage, [&](int image, int row, int unit) {
        const int n = stage.n + image, y = stage.row + row;
        const int left = (stage.unit + unit) * tiles.unit;
        for (int x = left; x < min(out.width, left + tiles.unit); ++x) {
          float sum[1] = {};
          for (int tap = 0; tap < window.kernel_h * window.kernel_h; ++tap) {
            const int from_y = y * window.stride - window.padding + tap / window.kernel_h;
            const int from_x = x * window.stride - window.padding + tap % window.kernel_h;
            if (from_y < 0 || from_y >= in.height || from_x < 0 || from_x >= in.width) continue;
            const int p = (n * in.height + from_y) * in.width + from_x;
            float f[1];
            reader.value(f, load_vector<1>(in.x + int64_t{p} * in.pitch + c), in, p);
            sum[0] =
                fmaf(f[0], to_float(weight[int64_t{c} * window.kernel_h * window.kernel_h + tap]),
                     sum[0]);
          }
          const int64_t p = (int64_t{n} * out.height + y) * out.width + x;
          writer.store(out.y + p * out.pitch + c, sum);
        }
      });
    });
  }
  if (out.mean) writer.statistics.leave(partials, c, out.channels, shared);
}

}  // namespace

template <class T>
void DepthwiseForward<T>::run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                              Window window, float* partials, cudaStream_t stream) {
  const auto launch = [&](auto kernel, int channels_per_thread, int taps, auto... more) {
    const DepthwiseTiles t = depthwise_forward_tiles(out.batch, out.height, out.width, out.channels,
                                                     channels_per_thread, window, device_limits());
    const int statistics = channels_per_thread;  // floats of a thread to merge them
    launch_depthwise(kernel, t, taps, statistics, stream, out, in, weight, more..., t, partials);
    if (!out.mean) return;
    const TileCounts counts{t.height, out.width, t.rows, t.strips, t.items, t.per_tile};
    merge_statistics(out.mean, out.var, partials, counts, out.channels, stream);
  };
  const bool tuned = vectors_fit<kStagedVector>(in.x, in.channels, in.pitch) &&
                     vectors_fit<kForwardVector>(out.y, out.channels, out.pitch) &&
                     window.padding == window.kernel_h / 2 && !in.gate && !in.random.present();
  if (tuned && window.kernel_h == 3 && window.stride == 1)
    launch(depthwise_forward_kernel<T, 3, 1>, kForwardVector, 9);
  else if (tuned && window.kernel_h == 3 && window.stride == 2)
    launch(depthwise_forward_kernel<T, 3, 2>, kForwardVector, 9);
  else if (tuned && window.kernel_h == 5 && window.stride == 1)
    launch(depthwise_forward_kernel<T, 5, 1>, kForwardVector, 25);
  else if (tuned && window.kernel_h == 5 && window.stride == 2)
    launch(depthwise_forward_kernel<T, 5, 2>, kForwardVector, 25);
  else
    launch(depthwise_forward_general_kernel<T>, 1, 0, window);
}

template struct DepthwiseForward<float>;
template struct DepthwiseForward<__half>;
template struct DepthwiseForward<__nv_bfloat16>;

}  // namespace engine::kernels
