// Depthwise convolution, forward: reads the operand once, transformed on load, and takes the statistics of what it
// writes. A thread keeps two channels and their weights, and marches down seven columns of the output: each row of
// the operand is loaded and activated once and added to the output rows that it reaches. No shared memory.
#include "kernels/depthwise.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {
namespace {

constexpr int kWidth = 7;  // divides 112, 56, 28, 14 and 7

// Padding is Kernel / 2. The operand has no gate.
template <class T, int Kernel, int Stride, bool Silu>
__global__ void __launch_bounds__(kDepthwiseThreads, 3)
    depthwise_forward_kernel(SliceView<T> out, OperandView<T> in, const T* __restrict__ weight,
                             DepthwiseTiles tiles, float* partials) {
  constexpr int V = 2, kPadding = Kernel / 2;
  constexpr int kReach =
      (Kernel + Stride - 1) / Stride;  // output rows that a row of the operand reaches
  constexpr int kColumns = (kWidth - 1) * Stride + Kernel;  // columns of the operand
  __shared__ float buffer[V * kDepthwiseThreads];
  const int c = first_channel<V>();
  Statistics<V> statistics;

  if (c < out.channels) {
    float w[Kernel * Kernel][V];
#pragma unroll
    for (int tap = 0; tap < Kernel * Kernel; ++tap)
#pragma unroll
      for (int k = 0; k < V; ++k)
        w[tap][k] = to_float(weight[int64_t{c + k} * (Kernel * Kernel) + tap]);
    ChannelNorm<float> norm[V];
    load_norm(norm, in.norm, c, in.channels);
    const Activation act = Silu ? Activation::silu : in.act;

    for_marches(tiles, out.height, [&](const March& march) {
      const T* image = in.x + int64_t{march.n} * in.height * in.width * in.pitch + c;
      const int left = march.column * Stride - kPadding;
      float sum[kReach][kWidth][V] = {};  // sum[a]: output row `step` − a

#pragma unroll 1
      for (int step = march.row0; step < march.row1 + kReach - 1; ++step) {
#pragma unroll
        for (int r = 0; r < Stride; ++r) {
          const int y = step * Stride - kPadding + r;
          const bool wanted = r + max(0, step - march.row1 + 1) * Stride <
                              Kernel;  // by an output row of this strip
          if (!wanted || y < 0 || y >= in.height) continue;
          const T* row = image + int64_t{y} * in.width * in.pitch;
          Pack<T, V> raw[kColumns];
#pragma unroll
          for (int i = 0; i < kColumns; ++i)
            if (left + i >= 0 && left + i < in.width)
              raw[i] = load_pack<V>(row + int64_t{left + i} * in.pitch);
#pragma unroll
          for (int i = 0; i < kColumns; ++i) {
            float f[V] = {};
            if (left + i >= 0 && left + i < in.width) {
              unpack(f, raw[i]);
#pragma unroll
              for (int k = 0; k < V; ++k) f[k] = engine::load_operand(f[k], norm[k], act).h;
            }
#pragma unroll
            for (int a = 0; a < kReach; ++a)
#pragma unroll
              for (int kx = 0; kx < Kernel; ++kx) {
                const int ky = r + a * Stride, x = (i - kx) / Stride;
                if (ky >= Kernel || i < kx || (i - kx) % Stride != 0 || x >= kWidth) continue;
#pragma unroll
                for (int k = 0; k < V; ++k)
                  sum[a][x][k] = fmaf(f[k], w[ky * Kernel + kx][k], sum[a][x][k]);
              }
          }
        }

        const int y = step - (kReach - 1);
        if (y >= march.row0) {
          T* row = out.y +
                   ((int64_t{march.n} * out.height + y) * out.width + march.column) * out.pitch + c;
#pragma unroll
          for (int x = 0; x < kWidth; ++x) {
            if (march.column + x >= out.width) break;
            const Pack<T, V> stored = pack_of<T>(sum[kReach - 1][x]);
            store_pack(row + int64_t{x} * out.pitch, stored);
            float value[V];
            unpack(value, stored);
            statistics.add(value);
          }
        }
#pragma unroll
        for (int a = kReach - 1; a >= 0; --a)
#pragma unroll
          for (int x = 0; x < kWidth; ++x)
#pragma unroll
            for (int k = 0; k < V; ++k) sum[a][x][k] = a > 0 ? sum[a - 1][x][k] : 0.f;
      }
    });
  }
  if (out.mean) statistics.leave(partials, c, out.channels, buffer);
}

// Any shape and operand; one channel per thread, nothing kept between pixels.
template <class T>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise_forward_general_kernel(SliceView<T> out, OperandView<T> in,
                                     const T* __restrict__ weight, DepthwiseShape shape,
                                     DepthwiseTiles tiles, float* partials) {
  __shared__ float buffer[kDepthwiseThreads];
  const int c = first_channel<1>();
  Statistics<1> statistics;

  if (c < out.channels) {
    const OperandReader<T, 1> reader(in, c);
    for_marches(tiles, out.height, [&](const March& march) {
      const int right = min(out.width, march.column + tiles.width);
      for (int y = march.row0; y < march.row1; ++y)
        for (int x = march.column; x < right; ++x) {
          float sum = 0;
          for (int tap = 0; tap < shape.kernel * shape.kernel; ++tap) {
            const int from_y = y * shape.stride - shape.padding + tap / shape.kernel;
            const int from_x = x * shape.stride - shape.padding + tap % shape.kernel;
            if (from_y < 0 || from_y >= in.height || from_x < 0 || from_x >= in.width) continue;
            const int p = (march.n * in.height + from_y) * in.width + from_x;
            float f[1];
            reader.value(f, load_pack<1>(in.x + int64_t{p} * in.pitch + c), in, p);
            sum = fmaf(f[0], to_float(weight[int64_t{c} * shape.kernel * shape.kernel + tap]), sum);
          }
          const int64_t p = (int64_t{march.n} * out.height + y) * out.width + x;
          const T stored = from_float<T>(sum);
          out.y[p * out.pitch + c] = stored;
          const float value[1] = {to_float(stored)};
          statistics.add(value);
        }
    });
  }
  if (out.mean) statistics.leave(partials, c, out.channels, buffer);
}

}  // namespace

template <class T>
void depthwise_forward(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                       DepthwiseShape shape, float* partials, cudaStream_t stream) {
  const auto tiles_of = [&](int channels_per_thread) {
    return depthwise_tiles(out.batch, out.height, out.width, out.channels, channels_per_thread,
                           kWidth, 1);
  };
  const auto finish = [&](const DepthwiseTiles& t) {
    if (!out.mean) return;
    const TileCounts counts{out.height, out.width, t.rows, t.strips, t.items, t.per_tile};
    merge_statistics(out.mean, out.var, partials, counts, out.channels, stream);
  };
  const auto launch = [&](auto silu, auto any) {
    const DepthwiseTiles tiles = tiles_of(2);
    auto kernel = in.act == Activation::silu ? silu : any;
    kernel<<<grid_of(tiles), block_of(tiles), 0, stream>>>(out, in, weight, tiles, partials);
    finish(tiles);
  };
  const bool tuned = packs_fit<2>(in.x, in.channels, in.pitch) &&
                     packs_fit<2>(out.y, out.channels, out.pitch) &&
                     shape.padding == shape.kernel / 2 && !in.gate && !in.random.present();
  if (tuned && shape.kernel == 3 && shape.stride == 1) {
    launch(depthwise_forward_kernel<T, 3, 1, true>, depthwise_forward_kernel<T, 3, 1, false>);
  } else if (tuned && shape.kernel == 3 && shape.stride == 2) {
    launch(depthwise_forward_kernel<T, 3, 2, true>, depthwise_forward_kernel<T, 3, 2, false>);
  } else if (tuned && shape.kernel == 5 && shape.stride == 1) {
    launch(depthwise_forward_kernel<T, 5, 1, true>, depthwise_forward_kernel<T, 5, 1, false>);
  } else if (tuned && shape.kernel == 5 && shape.stride == 2) {
    launch(depthwise_forward_kernel<T, 5, 2, true>, depthwise_forward_kernel<T, 5, 2, false>);
  } else {
    const DepthwiseTiles tiles = tiles_of(1);
    depthwise_forward_general_kernel<T>
        <<<grid_of(tiles), block_of(tiles), 0, stream>>>(out, in, weight, shape, tiles, partials);
    finish(tiles);
  }
}

template void depthwise_forward(const SliceView<float>&, const OperandView<float>&, const float*,
                                DepthwiseShape, float*, cudaStream_t);
template void depthwise_forward(const SliceView<__half>&, const OperandView<__half>&, const __half*,
                                DepthwiseShape, float*, cudaStream_t);
template void depthwise_forward(const SliceView<__nv_bfloat16>&, const OperandView<__nv_bfloat16>&,
                                const __nv_bfloat16*, DepthwiseShape, float*, cudaStream_t);

}  // namespace engine::kernels
