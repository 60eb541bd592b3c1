// Depthwise convolution, backward, in one kernel: it makes dy from (G_y, y) while a block stages it
// in shared memory, and the operand on the load from x; it leaves the weight gradient, and the
// operand's gradient with its sums. A thread keeps one channel and its weight gradients, and
// takes a unit of cells, stride × stride pixels of the operand each, at a time.
#include "kernels/depthwise/stage.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {
namespace {

template <int Kernel, int Stride>
constexpr int kReach = depthwise_reach(Kernel, Stride);

// Leaves the thread's K·K sums, added over the block's rows, in weight_partials (tiles, K·K, C).
// `buffer` holds Taps floats for each thread.
template <int Taps>
__device__ void leave_weight_gradient(const float (&dw)[Taps], float* weight_partials, int channels,
                                      float* buffer) {
  const int lanes = blockDim.x, sums = Taps * lanes;
  __syncthreads();  // the buffer may still be read
#pragma unroll
  for (int tap = 0; tap < Taps; ++tap)
    buffer[static_cast<int>(threadIdx.y) * sums + tap * lanes + static_cast<int>(threadIdx.x)] =
        dw[tap];
  __syncthreads();
  for (int tap = threadIdx.y; tap < Taps; tap += blockDim.y) {
    const int at = tap * lanes + threadIdx.x, c = first_channel<1>();
    float sum = 0;
    for (int row = 0; row < static_cast<int>(blockDim.y); ++row) sum += buffer[row * sums + at];
    if (c < channels) weight_partials[(int64_t{blockIdx.y} * Taps + tap) * channels + c] = sum;
  }
}

// A row of a unit: kWidth pixels of the operand, which meet kColumns of dy. Cell i meets dy from
// i + kFirst on, in rows as in columns.
template <int Kernel, int Stride>
struct UnitRow {
  static constexpr int kPadding = Kernel / 2;
  static constexpr int kWidth = kUnit<Stride> * Stride;
  static constexpr int kFirst = -((Kernel - 1 - kPadding) / Stride);
  static constexpr int kColumns = kUnit<Stride> + kReach<Kernel, Stride> - 1;
};

// df = the gradient of row r of a unit's cells, and dw += its share. dy and weight are staged and
// at the thread's channel; dy starts where the unit's first cell meets it.
template <int Kernel, int Stride, int Width = UnitRow<Kernel, Stride>::kWidth>
__device__ __forceinline__ void multiply_row(float (&df)[Width], float (&dw)[Kernel * Kernel],
                                             const Loaded<float> (&x)[Width], const float* dy,
                                             int staged_columns, const float* weight, int r) {
  using Row = UnitRow<Kernel, Stride>;
#pragma unroll
  for (int ky = 0; ky < Kernel; ++ky) {
    if ((r + Row::kPadding - ky) % Stride != 0) continue;
    const int dy_row = (r + Row::kPadding - ky) / Stride - Row::kFirst;
    float d[Row::kColumns];
#pragma unroll
    for (int i = 0; i < Row::kColumns; ++i)
      d[i] = dy[(dy_row * staged_columns + i) * kDepthwisePitch];
#pragma unroll
    for (int kx = 0; kx < Kernel; ++kx) {
      const int tap = ky * Kernel + kx;
      const float w = weight[tap * kDepthwisePitch];
#pragma unroll
      for (int j = 0; j < Width; ++j) {
        if ((j + Row::kPadding - kx) % Stride != 0) continue;
        const int i = (j + Row::kPadding - kx + Kernel * Stride) / Stride - Kernel - Row::kFirst;
        df[j] = fmaf(w, d[i], df[j]);
        dw[tap] = fmaf(x[j].h, d[i], dw[tap]);
      }
    }
  }
}

// Padding is Kernel / 2; the operand has no gate.
template <class T, int Kernel, int Stride>
__global__ void __launch_bounds__(kDepthwiseThreads, depthwise_blocks(Kernel))
    depthwise_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                              const T* __restrict__ weight, DepthwiseTiles tiles, float* partials,
                              float* weight_partials) {
  constexpr int kTaps = Kernel * Kernel, kWidth = UnitRow<Kernel, Stride>::kWidth;
  constexpr int kFirst = UnitRow<Kernel, Stride>::kFirst;
  extern __shared__ float shared[];
  float* staged = shared + kTaps * kDepthwisePitch;
  const int lane = threadIdx.x, c = first_channel<1>();
  const int image_size = tiles.staged_rows * tiles.staged_columns * kDepthwisePitch;
  float dw[kTaps] = {};
  GradientWriter<T, 1> writer;
  const bool reads_x = in.norm.present() || in.act != Activation::none;

  const StagingThread staging(tiles);
  ChannelNorm<float> norm[kWidth];
  norm[0] = in.norm.channel(c < in.channels ? c : 0);
#pragma unroll
  for (int j = 1; j < kWidth; ++j) norm[j] = norm[0];
  stage_weights<kTaps>(shared, weight, tiles, in.channels);

  for_stages(tiles, [&](const Stage& stage) {
    __syncthreads();  // the last stage may still be read
    using Gradient = GradientReader<T, kStagedVector, true>;
    Gradient gradient(dy, staging.channel(tiles));
    for (int i = 0; i < stage.images; ++i) {
      gradient.enter(dy, stage.n + i);
      staging.stage(
          staged + i * image_size, tiles, stage.rows + kReach<Kernel, Stride> - 1, dy, stage.n + i,
          stage.row + kFirst, stage.unit * kUnit<Stride> + kFirst,
          [&](int p) { return gradient.read(dy, p); },
          [&](float(&value)[kStagedVector], const typename Gradient::Raw& raw) {
            gradient.value(value, raw, dy, stage.n + i);
          });
    }
    __syncthreads();
    if (c >= in.channels) return;

    for_units(stage, [&](int image, int row, int unit) {
      const float* from = staged + image * image_size + lane +
                          (row * tiles.staged_columns + unit * kUnit<Stride>)*kDepthwisePitch;
      const int column = (stage.unit + unit) * kWidth, width = in.width - column;
#pragma unroll
      for (int r = 0; r < Stride; ++r) {
        const int y = (stage.row + row) * Stride + r;
        if (y >= in.height) break;
        const int64_t p = (int64_t{stage.n + image} * in.height + y) * in.width + column;
        float raw[kWidth];
#pragma unroll
        for (int j = 0; j < kWidth; ++j)
          raw[j] = j < width ? to_float(in.x[(p + j) * in.pitch + c]) : 0.f;
        Loaded<float> x[kWidth];
        load_values<kFast<T>>(x, raw, norm, in.act);
        if (width < kWidth) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) x[j].h = j < width ? x[j].h : 0.f;
        }
        float df[kWidth] = {};
        multiply_row<Kernel, Stride>(df, dw, x, from, tiles.staged_columns, shared + lane, r);
        if (!sink.grad) continue;
        T* to = sink.grad + p * sink.pitch + c;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          if (j >= width) break;
          float t[1] = {df[j]};
          const Loaded<float> at[1] = {x[j]};
          writer.store(to + int64_t{j} * sink.pitch, sink.how, t, at, norm, reads_x);
        }
      }
    });
  });
  leave_weight_gradient(dw, weight_partials, in.channels, shared);
  if (takes_sums(sink)) writer.leave(partials, c, in.channels, shared);
}

// Calls use(n, y, x) for the pixels of this thread's units of the block's tile.
template <class T, class Use>
__device__ __forceinline__ void for_cells(const DepthwiseTiles& tiles, const OperandView<T>& in,
                                          int stride, Use use) {
  for_stages(tiles, [&](const Stage& stage) {
    for_units(stage, [&](int image, int row, int unit) {
      const int top = (stage.row + row) * stride, bottom = min(in.height, top + stride);
      const int left = (stage.unit + unit) * tiles.unit * stride;
      const int right = min(in.width, left + tiles.unit * stride);
      for (int y = top; y < bottom; ++y)
        for (int x = left; x < right; ++x) use(stage.n + image, y, x);
    });
  });
}

// Any shape and operand; nothing kept between pixels.
template <class T, int Kernel>
__global__ void __launch_bounds__(kDepthwiseThreads, depthwise_blocks(Kernel))
    depthwise_backward_general_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                                      const T* __restrict__ weight, Window window,
                                      DepthwiseTiles tiles, float* partials,
                                      float* weight_partials) {
  extern __shared__ float shared[];
  const int c = first_channel<1>();
  float dw[Kernel * Kernel] = {};
  GradientWriter<T, 1> writer;

  if (c < in.channels) {
    const OperandReader<T, 1> reader(in, c);
    const GradientReader<T, 1> gradient(dy, c);
    for_cells(tiles, in, window.stride, [&](int n, int y, int x) {
      const int p = (n * in.height + y) * in.width + x;
      const Vector<T, 1> raw = load_vector<1>(in.x + int64_t{p} * in.pitch + c);
      float f[1], df[1] = {};
      reader.value(f, raw, in, p);
#pragma unroll
      for (int tap = 0; tap < Kernel * Kernel; ++tap) {
        const int above = y + window.padding - tap / Kernel,
                  before = x + window.padding - tap % Kernel;
        if (above < 0 || before < 0 || above % window.stride != 0 || before % window.stride != 0)
          continue;
        const int dy_y = above / window.stride, dy_x = before / window.stride;
        if (dy_y >= dy.height || dy_x >= dy.width) continue;
        const int from = (n * dy.height + dy_y) * dy.width + dy_x;
        float d[1];
        gradient.value(d, gradient.read(dy, from), dy, n);
        df[0] = fmaf(to_float(weight[int64_t{c} * Kernel * Kernel + tap]), d[0], df[0]);
        dw[tap] = fmaf(f[0], d[0], dw[tap]);
      }
      if (!sink.grad) return;
      Loaded<float> loaded[1];
      reader.load(loaded, raw, in);
      writer.store(sink, in, reader, df, loaded, p);
    });
  }
  leave_weight_gradient(dw, weight_partials, in.channels, shared);
  if (takes_sums(sink)) writer.leave(partials, c, in.channels, shared);
}

}  // namespace

template <class T>
void DepthwiseBackward<T>::run(const GradientSink<T>& sink, float* dweight,
                               const GradientView<T>& dy, const OperandView<T>& in, const T* weight,
                               Window window, float* partials, float* weight_partials,
                               cudaStream_t stream) {
  const DepthwiseTiles tiles =
      depthwise_backward_tiles(in.batch, in.height, in.width, in.channels, window, device_limits());
  const int taps = window.kernel_h * window.kernel_h;
  const auto launch = [&](auto kernel, auto... more) {
    launch_depthwise(kernel, tiles, taps, taps, stream, sink, dy, in, weight, more..., tiles,
                     partials, weight_partials);
  };
  const bool tuned = vectors_fit<kStagedVector>(dy.grad, dy.channels, dy.pitch) &&
                     vectors_fit<kStagedVector>(dy.x, dy.channels, dy.pitch) &&
                     window.padding == window.kernel_h / 2 && !in.gate && !in.random.present();
  if (tuned && window.kernel_h == 3 && window.stride == 1)
    launch(depthwise_backward_kernel<T, 3, 1>);
  else if (tuned && window.kernel_h == 3 && window.stride == 2)
    launch(depthwise_backward_kernel<T, 3, 2>);
  else if (tuned && window.kernel_h == 5 && window.stride == 1)
    launch(depthwise_backward_kernel<T, 5, 1>);
  else if (tuned && window.kernel_h == 5 && window.stride == 2)
    launch(depthwise_backward_kernel<T, 5, 2>);
  else if (window.kernel_h == 3)
    launch(depthwise_backward_general_kernel<T, 3>, window);
  else
    launch(depthwise_backward_general_kernel<T, 5>, window);

  merge_taps(dweight, weight_partials, tiles.tiles, taps, taps, in.channels, false, stream);
  if (sink.grad && takes_sums(sink))
    merge_norm_sums(norm_sums(sink, in), partials, tiles.tiles, in.channels, stream);
  if (sink.grad && sink.gated()) ImageSums<T>::take(sink, in, stream);
}

template struct DepthwiseBackward<float>;
template struct DepthwiseBackward<__half>;
template struct DepthwiseBackward<__nv_bfloat16>;

}  // namespace engine::kernels
