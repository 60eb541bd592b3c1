// Depthwise convolution, backward, in one kernel: dy on the load from (G_y, y), the operand on the load from x; the
// weight gradient, and the operand's gradient with its sums. A thread keeps one channel, its weights and their
// gradients, and marches down columns of the operand with the rows of dy in reach in registers. No shared memory.
#include "kernels/depthwise.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {
namespace {

// Leaves the thread's K·K sums, added over the block's rows, in weight_partials (tiles, K·K, C).
template <int Taps>
__device__ void leave_weight_gradient(float (&dw)[Taps], float* weight_partials, int c,
                                      int channels, float* buffer) {
#pragma unroll
  for (int tap = 0; tap < Taps; ++tap) {
    float sum[1] = {dw[tap]};
    sum_rows(sum, buffer);
    if (threadIdx.y == 0 && c < channels)
      weight_partials[(int64_t{blockIdx.y} * Taps + tap) * channels + c] = sum[0];
  }
}

// The gradient of one channel of y, as GradientReader for V = 1, with the image's gate and q at hand.
template <class T>
struct ChannelGradient {
  ChannelNorm<float> norm;
  float k0 = 0, k1 = 0, gate = 1, q = 0;

  __device__ __forceinline__ ChannelGradient(const GradientView<T>& in, int c)
      : norm(in.norm.channel(c)) {
    if (in.k0) k0 = in.k0[c], k1 = in.k1[c];
  }

  __device__ __forceinline__ void enter(const GradientView<T>& in, int n, int c) {
    if (!in.gated()) return;
    gate = in.gate[int64_t{n} * in.channels + c];
    q = in.q[int64_t{n} * in.channels + c];
  }

  // dy at columns [left, left + Columns) of a row; zero outside the image. `at`: of column 0, this channel.
  template <int Columns>
  __device__ __forceinline__ void row(float (&dy)[Columns], const GradientView<T>& in, bool gated,
                                      int64_t at, bool inside, int left) const {
    const bool reads_x = gated || in.normed();
    T grad[Columns], x[Columns];
#pragma unroll
    for (int i = 0; i < Columns; ++i) {
      if (!inside || left + i < 0 || left + i >= in.width) continue;
      const int64_t here = at + int64_t{left + i} * in.pitch;
      grad[i] = in.grad[here];
      if (reads_x) x[i] = in.x[here];
    }
#pragma unroll
    for (int i = 0; i < Columns; ++i) {
      dy[i] = 0;
      if (!inside || left + i < 0 || left + i >= in.width) continue;
      dy[i] = to_float(grad[i]);
      if (reads_x)
        dy[i] = engine::load_gradient(dy[i], to_float(x[i]), norm, k0, k1, gated, in.act, gate, q);
    }
  }
};

// Padding is Kernel / 2; the operand has no gate. Silu: it is every activation there is, and y is gated.
template <class T, int Kernel, int Stride, bool Silu>
__global__ void __launch_bounds__(kDepthwiseThreads, 3)
    depthwise_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                              const T* __restrict__ weight, DepthwiseTiles tiles, float* partials,
                              float* weight_partials) {
  constexpr int kPadding = Kernel / 2, kTaps = Kernel * Kernel;
  constexpr int kWidth = Stride == 1 ? 7 : 14;
  // A row r of step `step` (operand row step·Stride + r) meets the dy rows step + kFirst … step + kLast.
  constexpr int kFirst = -((Kernel - 1 - kPadding) / Stride),
                kLast = (Stride - 1 + kPadding) / Stride;
  constexpr int kReach = kLast - kFirst + 1, kColumns = kWidth / Stride + kReach - 1;
  __shared__ float buffer[kDepthwiseThreads];
  const int c = first_channel<1>();
  float dw[kTaps] = {}, sum_t[1] = {}, sum_t_xhat[1] = {};
  const bool reads_x = Silu || in.norm.present() || in.act != Activation::none;
  if constexpr (Silu) {
    in.act = Activation::silu;
    dy.act = Activation::silu;
  }

  if (c < in.channels) {
    float w[kTaps];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) w[tap] = to_float(weight[int64_t{c} * kTaps + tap]);
    const ChannelNorm<float> norm = in.norm.channel(c);
    ChannelGradient<T> gradient(dy, c);

    for_marches(tiles, in.height, [&](const March& march) {
      gradient.enter(dy, march.n, c);
      const int64_t operand_row = int64_t{in.width} * in.pitch,
                    sink_row = int64_t{in.width} * sink.pitch;
      const T* x_image =
          in.x + march.n * in.height * operand_row + int64_t{march.column} * in.pitch + c;
      T* grad_image =
          sink.grad + march.n * in.height * sink_row + int64_t{march.column} * sink.pitch + c;
      const int left = march.column / Stride + kFirst;
      float rows[kReach][kColumns] = {};  // dy; rows[b]: row step + kFirst + b

      const int first = march.row0 / Stride, last = (march.row1 + Stride - 1) / Stride;
#pragma unroll 1
      for (int step = first - (kReach - 1); step < last; ++step) {
#pragma unroll
        for (int b = 0; b + 1 < kReach; ++b)
#pragma unroll
          for (int i = 0; i < kColumns; ++i) rows[b][i] = rows[b + 1][i];
        const int dy_row = step + kLast;
        gradient.row(rows[kReach - 1], dy, Silu || dy.gated(),
                     (int64_t{march.n} * dy.height + dy_row) * dy.width * dy.pitch + c,
                     dy_row >= 0 && dy_row < dy.height, left);
        if (step < first) continue;

#pragma unroll
        for (int r = 0; r < Stride; ++r) {
          const int y = step * Stride + r;
          if (y >= march.row1) continue;
          T raw[kWidth];
#pragma unroll
          for (int j = 0; j < kWidth; ++j)
            if (march.column + j < in.width)
              raw[j] = x_image[y * operand_row + int64_t{j} * in.pitch];
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            if (march.column + j >= in.width) continue;
            const Loaded<float> x = engine::load_operand(to_float(raw[j]), norm, in.act);
            float df = 0;
#pragma unroll
            for (int ky = 0; ky < Kernel; ++ky) {
              if ((r + kPadding - ky) % Stride != 0) continue;
#pragma unroll
              for (int kx = 0; kx < Kernel; ++kx) {
                if ((j % Stride + kPadding - kx) % Stride != 0) continue;
                const float d = rows[(r + kPadding - ky) / Stride - kFirst]
                                    [j / Stride + (j % Stride + kPadding - kx) / Stride - kFirst];
                df = fmaf(w[ky * Kernel + kx], d, df);
                dw[ky * Kernel + kx] = fmaf(x.h, d, dw[ky * Kernel + kx]);
              }
            }
            if (!sink.grad) continue;
            float t = df;
            if (reads_x) {
              t *= x.slope;
              sum_t[0] += t;
              sum_t_xhat[0] = fmaf(t, x.xhat, sum_t_xhat[0]);
              t *= norm.scale();
            }
            T* to = grad_image + y * sink_row + int64_t{j} * sink.pitch;
            if (sink.how == Write::add) t += to_float(*to);
            *to = from_float<T>(t);
          }
        }
      }
    });
  }
  leave_weight_gradient(dw, weight_partials, c, in.channels, buffer);
  if (!takes_sums(sink)) return;
  leave_sum(sum_t, 0, partials, c, in.channels, buffer);
  leave_sum(sum_t_xhat, 1, partials, c, in.channels, buffer);
}

// Any shape and operand; nothing kept between pixels.
template <class T, int Kernel>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise_backward_general_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                                      const T* __restrict__ weight, DepthwiseShape shape,
                                      DepthwiseTiles tiles, float* partials,
                                      float* weight_partials) {
  __shared__ float buffer[kDepthwiseThreads];
  const int c = first_channel<1>();
  float dw[Kernel * Kernel] = {};
  GradientWriter<T, 1> writer;

  if (c < in.channels) {
    const OperandReader<T, 1> reader(in, c);
    const GradientReader<T, 1> gradient(dy, c);
    for_marches(tiles, in.height, [&](const March& march) {
      const int right = min(in.width, march.column + tiles.width);
      for (int y = march.row0; y < march.row1; ++y)
        for (int x = march.column; x < right; ++x) {
          const int p = (march.n * in.height + y) * in.width + x;
          const Pack<T, 1> raw = load_pack<1>(in.x + int64_t{p} * in.pitch + c);
          float f[1], df[1] = {};
          reader.value(f, raw, in, p);
#pragma unroll
          for (int tap = 0; tap < Kernel * Kernel; ++tap) {
            const int above = y + shape.padding - tap / Kernel,
                      before = x + shape.padding - tap % Kernel;
            if (above < 0 || before < 0 || above % shape.stride != 0 || before % shape.stride != 0)
              continue;
            const int dy_y = above / shape.stride, dy_x = before / shape.stride;
            if (dy_y >= dy.height || dy_x >= dy.width) continue;
            const int from = (march.n * dy.height + dy_y) * dy.width + dy_x;
            float d[1];
            gradient.value(d, gradient.read(dy, from), dy, march.n);
            df[0] = fmaf(to_float(weight[int64_t{c} * Kernel * Kernel + tap]), d[0], df[0]);
            dw[tap] = fmaf(f[0], d[0], dw[tap]);
          }
          if (!sink.grad) continue;
          Loaded<float> loaded[1];
          reader.load(loaded, raw, in);
          writer.store(sink, in, reader, df, loaded, p);
        }
    });
  }
  leave_weight_gradient(dw, weight_partials, c, in.channels, buffer);
  if (takes_sums(sink)) writer.leave(partials, c, in.channels, buffer);
}

}  // namespace

template <class T>
void depthwise_backward(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                        const OperandView<T>& in, const T* weight, DepthwiseShape shape,
                        float* partials, float* weight_partials, cudaStream_t stream) {
  const DepthwiseTiles tiles =
      depthwise_backward_tiles(in.batch, in.height, in.width, in.channels, shape);
  const auto launch = [&](auto silu, auto any) {
    auto kernel =
        in.act == Activation::silu && dy.gated() && dy.act == Activation::silu ? silu : any;
    kernel<<<grid_of(tiles), block_of(tiles), 0, stream>>>(sink, dy, in, weight, tiles, partials,
                                                           weight_partials);
  };
  const auto launch_general = [&](auto kernel) {
    kernel<<<grid_of(tiles), block_of(tiles), 0, stream>>>(sink, dy, in, weight, shape, tiles,
                                                           partials, weight_partials);
  };
  const bool tuned = shape.padding == shape.kernel / 2 && !in.gate && !in.random.present();
  if (tuned && shape.kernel == 3 && shape.stride == 1)
    launch(depthwise_backward_kernel<T, 3, 1, true>, depthwise_backward_kernel<T, 3, 1, false>);
  else if (tuned && shape.kernel == 3 && shape.stride == 2)
    launch(depthwise_backward_kernel<T, 3, 2, true>, depthwise_backward_kernel<T, 3, 2, false>);
  else if (tuned && shape.kernel == 5 && shape.stride == 1)
    launch(depthwise_backward_kernel<T, 5, 1, true>, depthwise_backward_kernel<T, 5, 1, false>);
  else if (tuned && shape.kernel == 5 && shape.stride == 2)
    launch(depthwise_backward_kernel<T, 5, 2, true>, depthwise_backward_kernel<T, 5, 2, false>);
  else if (shape.kernel == 3)
    launch_general(depthwise_backward_general_kernel<T, 3>);
  else
    launch_general(depthwise_backward_general_kernel<T, 5>);

  const int taps = shape.kernel * shape.kernel;
  merge_rows(dweight, weight_partials, tiles.tiles, taps, taps, in.channels, false, stream);
  if (sink.grad && takes_sums(sink))
    merge_norm_sums(norm_sums(sink, in), partials, tiles.tiles, in.channels, stream);
  if (sink.grad && sink.gated()) image_sums(sink, in, stream);
}

template void depthwise_backward(const GradientSink<float>&, float*, const GradientView<float>&,
                                 const OperandView<float>&, const float*, DepthwiseShape, float*,
                                 float*, cudaStream_t);
template void depthwise_backward(const GradientSink<__half>&, float*, const GradientView<__half>&,
                                 const OperandView<__half>&, const __half*, DepthwiseShape, float*,
                                 float*, cudaStream_t);
template void depthwise_backward(const GradientSink<__nv_bfloat16>&, float*,
                                 const GradientView<__nv_bfloat16>&,
                                 const OperandView<__nv_bfloat16>&, const __nv_bfloat16*,
                                 DepthwiseShape, float*, float*, cudaStream_t);

}  // namespace engine::kernels
