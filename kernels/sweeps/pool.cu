// Maximum and average pooling. Windows may overlap and overhang on all sides; backward gathers, so
// every position of the operand's gradient is written once.
#include "kernels/kernels.h"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

// The taps of an output pixel's window that lie in the operand.
struct Taps {
  int top, bottom, left, right;  // half open

  __device__ Taps(const Window& s, int y, int x, int height, int width)
      : top(max(0, y * s.stride - s.padding)),
        bottom(min(height, y * s.stride - s.padding + s.kernel_h)),
        left(max(0, x * s.stride - s.padding)),
        right(min(width, x * s.stride - s.padding + s.kernel_w)) {}
};

// The output pixels whose windows cover one position of the operand, half open.
struct Covering {
  int first, last;

  __device__ Covering(int at, int kernel, const Window& s, int outputs)
      : first(max(0, (at + s.padding - kernel + s.stride) / s.stride)),
        last(min(outputs, (at + s.padding) / s.stride + 1)) {}
};

// Calls use(y·W + x, f) for the taps of a window of image n in scan order; a row's loads leave
// three at a time.
template <class T, int V, class Use>
__device__ __forceinline__ void for_taps(const Taps& taps, const OperandView<T>& in,
                                         const OperandReader<T, V>& reader, int n, Use use) {
  constexpr int kTogether = 3;
  for (int y = taps.top; y < taps.bottom; ++y)
    for (int left = taps.left; left < taps.right; left += kTogether) {
      const int at = y * in.width + left, p = n * in.height * in.width + at;
      Vector<T, V> raw[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (left + i < taps.right)
          raw[i] = load_vector<V>(in.x + int64_t{p + i} * in.pitch + reader.c);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (left + i >= taps.right) break;
        float f[V];
        reader.value(f, raw[i], in, p + i);
        use(at + i, f);
      }
    }
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 3)
    pool_forward_kernel(SliceView<T> out, OperandView<T> in, Window window, bool maximal,
                        Sweep sweep, float* partials) {
  __shared__ float buffer[V * kSweepThreads];
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    const OperandReader<T, V> reader(in, c);
    const float factor = 1.f / static_cast<float>(window.kernel_h * window.kernel_w);
    for_pixels<1>(
        sweep, [&](int p) { return p; },
        [&](int p, int) {
          const int area = out.height * out.width, n = p / area, y = p % area / out.width,
                    x = p % area % out.width;
          const Taps taps(window, y, x, in.height, in.width);
          float result[V];
#pragma unroll
          for (int k = 0; k < V; ++k) result[k] = maximal ? -INFINITY : 0.f;
          for_taps(taps, in, reader, n, [&](int, const float(&f)[V]) {
#pragma unroll
            for (int k = 0; k < V; ++k) {
              if (!maximal)
                result[k] += f[k];
              else if (f[k] > result[k] || isnan(f[k]))
                result[k] = f[k];  // NaN wins and stays, as in PyTorch
            }
          });
#pragma unroll
          for (int k = 0; k < V; ++k)
            if (!maximal) result[k] *= factor;
          writer.store(out.y + int64_t{p} * out.pitch + c, result, out.mean != nullptr);
        });
  }
  if (out.mean) writer.statistics.leave(partials, c, out.channels, buffer);
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 2)
    average_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                            Window window, Sweep sweep, float* partials) {
  __shared__ float buffer[V * kSweepThreads];
  const int c = first_channel<V>();
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    const OperandReader<T, V> reader(in, c);
    const GradientReader<T, V> gradient(dy, c);
    const bool reads_x = writer.reads_x(sink, in);
    const float factor = 1.f / static_cast<float>(window.kernel_h * window.kernel_w);
    for_pixels<2>(
        sweep,
        [&](int p) {
          Vector<T, V> raw;
          if (reads_x) raw = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          return raw;
        },
        [&](int p, const Vector<T, V>& raw) {
          const int area = in.height * in.width, n = p / area;
          const Covering rows(p % area / in.width, window.kernel_h, window, dy.height);
          const Covering columns(p % area % in.width, window.kernel_w, window, dy.width);
          float df[V] = {};
          for (int y = rows.first; y < rows.last; ++y)
            for (int x = columns.first; x < columns.last; ++x) {
              float d[V];
              gradient.value(d, gradient.read(dy, (int64_t{n} * dy.height + y) * dy.width + x), dy,
                             n);
#pragma unroll
              for (int k = 0; k < V; ++k) df[k] = fmaf(d[k], factor, df[k]);
            }
          Loaded<float> loaded[V];
          if (reads_x) reader.load(loaded, raw, in);
          writer.store(sink, in, reader, df, loaded, p);
        });
  }
  if (takes_sums(sink)) writer.leave(partials, c, in.channels, buffer);
}

// ---------------------------------------------------------------- maximum, backward

// A block takes square tiles of the operand: it first finds the maximum of every window that
// touches the tile, once, then every position of the tile collects from the windows whose maximum
// it is.
struct MaxTiles {
  int side;                     // of a tile, in pixels of the operand
  int windows_h, windows_w;     // windows that may touch a tile
  int across, items, per_tile;  // tiles in a row of the image, in the batch, and per block
};

constexpr int kMaxPoolShared = 96 << 10;

inline size_t shared_bytes(const MaxTiles& t, int channels) {
  return size_t{1} * t.windows_h * t.windows_w * channels * (sizeof(float) + sizeof(int));
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 2)
    max_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in, Window window,
                        MaxTiles tiles, float* partials) {
  extern __shared__ float shared[];
  __shared__ float buffer[V * kSweepThreads];
  const int c = first_channel<V>(), lane = threadIdx.x, vectors = blockDim.x, lanes = vectors * V;
  // dy and the positions y·W + x of the maxima: (windows, V, vectors) each.
  float* gradients = shared;
  int* winners = reinterpret_cast<int*>(shared + tiles.windows_h * tiles.windows_w * lanes);
  GradientWriter<T, V> writer;
  const bool inside = c < in.channels;
  const OperandReader<T, V> reader(in, inside ? c : 0);
  const GradientReader<T, V> gradient(dy, inside ? c : 0);
  const int tiles_per_image = (in.height + tiles.side - 1) / tiles.side * tiles.across;
  const int begin = blockIdx.y * tiles.per_tile, end = min(tiles.items, begin + tiles.per_tile);

  for (int item = begin; item < end; ++item) {
    const int n = item / tiles_per_image, top = item % tiles_per_image / tiles.across * tiles.side;
    const int left = item % tiles_per_image % tiles.across * tiles.side;
    const int bottom = min(in.height, top + tiles.side), right = min(in.width, left + tiles.side);
    const Covering first_rows(top, window.kernel_h, window, dy.height),
        last_rows(bottom - 1, window.kernel_h, window, dy.height);
    const Covering first_columns(left, window.kernel_w, window, dy.width);
    const Covering last_columns(right - 1, window.kernel_w, window, dy.width);
    const int window_top = first_rows.first, window_left = first_columns.first;
    const int window_rows = max(0, last_rows.last - window_top),
              window_columns = max(0, last_columns.last - window_left);

    __syncthreads();  // the previous tile is read
    if (inside) {
      for (int i = threadIdx.y; i < window_rows * window_columns; i += blockDim.y) {
        const int y = window_top + i / window_columns, x = window_left + i % window_columns;
        const Taps taps(window, y, x, in.height, in.width);
        float best[V], d[V];
        int winner[V];
#pragma unroll
        for (int k = 0; k < V; ++k)
          best[k] = -INFINITY, winner[k] = taps.top * in.width + taps.left;
        for_taps(taps, in, reader, n, [&](int at, const float(&f)[V]) {
#pragma unroll
          for (int k = 0; k < V; ++k)
            if (f[k] > best[k] || isnan(f[k])) best[k] = f[k], winner[k] = at;
        });
        gradient.value(d, gradient.read(dy, (int64_t{n} * dy.height + y) * dy.width + x), dy, n);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          gradients[i * lanes + k * vectors + lane] = d[k];
          winners[i * lanes + k * vectors + lane] = winner[k];
        }
      }
    }
    __syncthreads();
    if (!inside) continue;
    for (int i = threadIdx.y; i < (bottom - top) * (right - left); i += blockDim.y) {
      const int y = top + i / (right - left), x = left + i % (right - left),
                p = (n * in.height + y) * in.width + x;
      const Covering rows(y, window.kernel_h, window, dy.height),
          columns(x, window.kernel_w, window, dy.width);
      float df[V] = {};
      for (int wy = rows.first; wy < rows.last; ++wy)
        for (int wx = columns.first; wx < columns.last; ++wx) {
          const int at = ((wy - window_top) * window_columns + wx - window_left) * lanes + lane;
#pragma unroll
          for (int k = 0; k < V; ++k)
            if (winners[at + k * vectors] == y * in.width + x) df[k] += gradients[at + k * vectors];
        }
      Loaded<float> loaded[V];
      if (writer.reads_x(sink, in))
        reader.load(loaded, load_vector<V>(in.x + int64_t{p} * in.pitch + c), in);
      writer.store(sink, in, reader, df, loaded, p);
    }
  }
  if (takes_sums(sink)) writer.leave(partials, c, in.channels, buffer);
}

// The largest tile whose windows fit in shared memory.
template <class T>
MaxTiles max_tiles(const OperandView<T>& in, const Window& window, int lanes, int blocks) {
  MaxTiles t{};
  for (t.side = 16; t.side >= 1; t.side /= 2) {
    const auto windows = [&](int kernel) { return (t.side + kernel - 2) / window.stride + 1; };
    t.windows_h = windows(window.kernel_h);
    t.windows_w = windows(window.kernel_w);
    if (shared_bytes(t, lanes) <= kMaxPoolShared || t.side == 1) break;
  }
  t.across = (in.width + t.side - 1) / t.side;
  t.items = in.batch * ((in.height + t.side - 1) / t.side) * t.across;
  t.per_tile = (t.items + blocks - 1) / blocks;
  return t;
}

}  // namespace

template <class T>
void Pooling<T>::forward(const SliceView<T>& out, const OperandView<T>& in, Window window,
                         bool maximal, float* partials, cudaStream_t stream) {
  constexpr int V = kSweepVector;
  const auto launch = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(out.pixels(), out.channels, v);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(out, in, window, maximal, sweep, partials);
    if (out.mean)
      merge_statistics(out.mean, out.var, partials, tile_counts(sweep), out.channels, stream);
  };
  if (vectors_fit<V>(out.y, out.channels, out.pitch) && vectors_fit<V>(in))
    launch(pool_forward_kernel<T, V>, V);
  else
    launch(pool_forward_kernel<T, 1>, 1);
}

template <class T>
void Pooling<T>::backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                          const OperandView<T>& in, Window window, bool maximal, float* partials,
                          cudaStream_t stream) {
  if (!sink.grad) return;
  constexpr int V = kSweepVector;
  const auto finish = [&](int tiles) {
    if (takes_sums(sink))
      merge_norm_sums(norm_sums(sink, in), partials, tiles, in.channels, stream);
    if (sink.gated()) ImageSums<T>::take(sink, in, stream);
  };
  const auto launch_average = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, v);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(sink, dy, in, window, sweep, partials);
    finish(sweep.tiles);
  };
  const auto launch_max = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, v);
    const MaxTiles tiles = max_tiles(in, window, sweep.lanes * v, sweep.tiles);
    const size_t bytes = shared_bytes(tiles, sweep.lanes * v);
    const int blocks = (tiles.items + tiles.per_tile - 1) / tiles.per_tile;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxPoolShared);
    kernel<<<dim3(sweep.groups, blocks), sweep.block(), bytes, stream>>>(sink, dy, in, window,
                                                                         tiles, partials);
    finish(blocks);
  };
  const bool vectors = vectors_fit<V>(sink.grad, in.channels, sink.pitch) && vectors_fit<V>(in) &&
                       vectors_fit<V>(dy.grad, dy.channels, dy.pitch) &&
                       vectors_fit<V>(dy.x, dy.channels, dy.pitch);
  if (maximal && vectors)
    launch_max(max_backward_kernel<T, V>, V);
  else if (maximal)
    launch_max(max_backward_kernel<T, 1>, 1);
  else if (vectors)
    launch_average(average_backward_kernel<T, V>, V);
  else
    launch_average(average_backward_kernel<T, 1>, 1);
}

template struct Pooling<float>;
template struct Pooling<__half>;
template struct Pooling<__nv_bfloat16>;

}  // namespace engine::kernels
