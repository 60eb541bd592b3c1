// Maximum and average pooling. Windows may overlap and overhang on all sides; backward gathers, so
// every position of the operand's gradient is written once.
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/sweeps/max_pool.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

// The output pixels whose windows cover one position of the operand, half open.
struct Covering {
  int first, last;

  __device__ Covering(int at, int kernel, const Window& s, int outputs)
      : first(max(0, (at + s.padding - kernel + s.stride) / s.stride)),
        last(min(outputs, (at + s.padding) / s.stride + 1)) {}
};

// Calls use(tap, f) for those of the window's taps in scan order that lie in the operand; `tap`
// counts all of them. A window of K × K pixels is loaded at once, any other (K = 0) by parts of its
// rows.
template <int K, class T, int V, class Use>
__device__ __forceinline__ void for_taps(const Window& window, int n, int y, int x,
                                         const OperandView<T>& in,
                                         const OperandReader<T, V>& reader, Use use) {
  constexpr int kRows = K ? K : 1, kColumns = K ? K : 8;
  const int top = y * window.stride - window.padding, left = x * window.stride - window.padding;
  const int height = K ? K : window.kernel_h, width = K ? K : window.kernel_w;
  const auto pixel = [&](int row, int column) {
    return (n * in.height + top + row) * in.width + left + column;
  };
  for (int row = 0; row < height; row += kRows)
    for (int column = 0; column < width; column += kColumns) {
      Vector<T, V> raw[kRows * kColumns];
      bool inside[kRows * kColumns];
#pragma unroll
      for (int i = 0; i < kRows * kColumns; ++i) {
        const int r = row + i / kColumns, c = column + i % kColumns;
        inside[i] = static_cast<unsigned>(top + r) < static_cast<unsigned>(in.height) &&
                    static_cast<unsigned>(left + c) < static_cast<unsigned>(in.width) && c < width;
        if (inside[i]) raw[i] = load_vector<V>(in.x + int64_t{pixel(r, c)} * in.pitch + reader.c);
      }
#pragma unroll
      for (int i = 0; i < kRows * kColumns; ++i) {
        if (!inside[i]) continue;
        const int r = row + i / kColumns, c = column + i % kColumns;
        float f[V];
        reader.value(f, raw[i], in, pixel(r, c));
        use(r * width + c, f);
      }
    }
}

// The taps of a window take registers: more than four of them leave room for four channels.
constexpr int kManyTaps = 4;
template <int V>
constexpr SweepKernel kPoolForward{1, kSummedGroup, V > 1 ? 2 : 3};

template <class T, int V, int K>
__global__ void __launch_bounds__(kSweepThreads, kPoolForward<V>.blocks)
    pool_forward_kernel(SliceView<T> out, OperandView<T> in, Window window, bool maximal,
                        Sweep sweep, Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    const OperandReader<T, V> reader(in, c);
    const float factor = 1.f / static_cast<float>(window.kernel_h * window.kernel_w);
    const int area = out.height * out.width;
    for_pixels<kPoolForward<V>.in_flight>(
        sweep, [&](int p) { return p; },
        [&] {
          return [&](int p, int) {
            const int n = p / area, y = p % area / out.width, x = p % area % out.width;
            float result[V];
#pragma unroll
            for (int k = 0; k < V; ++k) result[k] = maximal ? -INFINITY : 0.f;
            for_taps<K>(window, n, y, x, in, reader, [&](int, const float(&f)[V]) {
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
          };
        });
  }
  if (!out.mean) return;
  writer.statistics.leave(partials.rows, c, out.channels, buffer.floats);
  finish_statistics(out.mean, out.var, partials, sweep, out.channels, buffer);
}

// ---------------------------------------------------------------- average, backward

// Channels of a thread that keeps the norms of both operand and gradient, and no gate of the
// latter.
constexpr int kTwoNorms = 4;
constexpr SweepKernel kAverageBackward{4, kSummedGroup, 2};

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kAverageBackward.blocks)
    average_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                            Window window, Sweep sweep, Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  if constexpr (V > 1) dy.gate = nullptr;
  const int c = first_channel<V>();
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    const bool reads_x = writer.reads_x(sink, in);
    const float factor = 1.f / static_cast<float>(window.kernel_h * window.kernel_w);
    for_pixels<kAverageBackward.in_flight>(
        sweep,
        [&](int p) {
          Vector<T, V> raw;
          if (reads_x) raw = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          return raw;
        },
        [&] {
          return [&, reader = OperandReader<T, V>(in, c), gradient = GradientReader<T, V>(dy, c)](
                     int p, const Vector<T, V>& raw) {
            const int area = in.height * in.width, n = p / area;
            const Covering rows(p % area / in.width, window.kernel_h, window, dy.height);
            const Covering columns(p % area % in.width, window.kernel_w, window, dy.width);
            float df[V] = {};
            for (int y = rows.first; y < rows.last; ++y)
              for (int x = columns.first; x < columns.last; ++x) {
                float d[V];
                gradient.value(d, gradient.read(dy, (int64_t{n} * dy.height + y) * dy.width + x),
                               dy, n);
#pragma unroll
                for (int k = 0; k < V; ++k) df[k] = fmaf(d[k], factor, df[k]);
              }
            Loaded<float> loaded[V];
            if (reads_x) reader.load(loaded, raw, in);
            writer.store(sink, in, reader, df, loaded, p);
          };
        });
  }
  if (!takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
}

// Windows that tile the operand, and a gradient without a norm: a thread takes a window, and loads
// some of its positions at a time.
constexpr SweepKernel kTiled{1, kSummedGroup, 2};
constexpr int kPositions = 2;

template <class T>
bool tile_the_operand(const GradientView<T>& dy, const OperandView<T>& in, const Window& w) {
  const auto tile = [&](int kernel, int windows, int side) {
    return (kernel == w.stride || windows == 1) && windows * kernel == side;
  };
  return w.padding == 0 && tile(w.kernel_h, dy.height, in.height) &&
         tile(w.kernel_w, dy.width, in.width) && !dy.normed() && !dy.gated();
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kTiled.blocks)
    tiled_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                          Window window, Sweep sweep, Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  const int c = first_channel<V>(), positions = window.kernel_h * window.kernel_w;
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    const bool reads_x = writer.reads_x(sink, in), adds = sink.how == Write::add;
    const float factor = 1.f / static_cast<float>(positions);
    const OperandReader<T, V> reader(in, c);
    const auto spread = [&](int p, const Vector<T, V>& raw) {
      const int window_row = p / dy.width, window_column = p - window_row * dy.width;
      int pixel = window_row * window.kernel_h * in.width + window_column * window.kernel_w;
      int column = 0;  // of the window
      for (int first = 0; first < positions; first += kPositions) {
        Vector<T, V> x[kPositions], before[kPositions];
        int pixels[kPositions];
#pragma unroll
        for (int i = 0; i < kPositions; ++i) {
          pixels[i] = pixel;
          if (first + i >= positions) continue;
          if (reads_x) x[i] = load_vector<V>(in.x + int64_t{pixel} * in.pitch + c);
          if (adds) before[i] = load_vector<V>(sink.grad + int64_t{pixel} * sink.pitch + c);
          const bool ends = ++column == window.kernel_w;
          pixel += ends ? in.width - window.kernel_w + 1 : 1;
          column = ends ? 0 : column;
        }
        float df[V];
        to_floats(df, raw);
#pragma unroll
        for (int i = 0; i < kPositions; ++i) {
          if (first + i >= positions) continue;
          float t[V];
#pragma unroll
          for (int k = 0; k < V; ++k) t[k] = df[k] * factor;
          if (!sink.gated()) reader.apply_gate(t, in, pixels[i]);
          if (reads_x) {
            Loaded<float> loaded[V];
            reader.load(loaded, x[i], in);
            writer.take(t, loaded, reader.norm);
          }
          if (adds) writer.add(t, before[i]);
          store_vector(sink.grad + int64_t{pixels[i]} * sink.pitch + c, vector_of<T>(t));
        }
      }
    };
    for_pixels<kTiled.in_flight>(
        sweep, [&](int p) { return load_vector<V>(dy.grad + int64_t{p} * dy.pitch + c); },
        [&] { return spread; });
  }
  if (!takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
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

// Of each window and channel: its gradient, and which tap is the maximum.
inline size_t shared_bytes(const MaxTiles& t, int channels) {
  return size_t{1} * t.windows_h * t.windows_w * channels * (sizeof(float) + sizeof(uint16_t));
}

template <class T, int V, int K>
__global__ void __launch_bounds__(kSweepThreads, 2)
    max_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in, Window window,
                        MaxTiles tiles, Partials partials) {
  extern __shared__ float shared[];
  __shared__ SumBuffer<V> buffer;
  follow();
  if constexpr (V > 1) dy.gate = nullptr;
  const int c = first_channel<V>(), lanes = blockDim.x * V, lane = threadIdx.x * V;
  // (windows, lanes) each.
  float* gradients = shared;
  uint16_t* winners =
      reinterpret_cast<uint16_t*>(shared + tiles.windows_h * tiles.windows_w * lanes);
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
        const auto raw = gradient.read(dy, (int64_t{n} * dy.height + y) * dy.width + x);
        float best[V];
        Vector<float, V> d;
        Vector<uint16_t, V> winner;
        bool none = true;  // before the first tap, which wins unless another is larger
        for_taps<K>(window, n, y, x, in, reader, [&](int tap, const float(&f)[V]) {
#pragma unroll
          for (int k = 0; k < V; ++k)
            if (none || f[k] > best[k] || isnan(f[k])) best[k] = f[k], winner.at[k] = tap;
          none = false;
        });
        gradient.value(d.at, raw, dy, n);
        store_vector(gradients + i * lanes + lane, d);
        store_vector(winners + i * lanes + lane, winner);
      }
    }
    __syncthreads();
    if (!inside) continue;
    for (int i = threadIdx.y; i < (bottom - top) * (right - left); i += blockDim.y) {
      const int y = top + i / (right - left), x = left + i % (right - left),
                p = (n * in.height + y) * in.width + x;
      const bool reads_x = writer.reads_x(sink, in);
      Vector<T, V> raw;
      if (reads_x) raw = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
      const Covering rows(y, window.kernel_h, window, dy.height),
          columns(x, window.kernel_w, window, dy.width);
      float df[V] = {};
      for (int wy = rows.first; wy < rows.last; ++wy)
        for (int wx = columns.first; wx < columns.last; ++wx) {
          const int at = ((wy - window_top) * window_columns + wx - window_left) * lanes + lane;
          const int tap = (y + window.padding - wy * window.stride) * window.kernel_w + x +
                          window.padding - wx * window.stride;
          const auto d = load_vector<V>(gradients + at);
          const auto winner = load_vector<V>(winners + at);
#pragma unroll
          for (int k = 0; k < V; ++k)
            if (winner.at[k] == tap) df[k] += d.at[k];
        }
      Loaded<float> loaded[V];
      if (reads_x) reader.load(loaded, raw, in);
      writer.store(sink, in, reader, df, loaded, p);
    }
  }
  if (!takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
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
                         bool maximal, const KeptMaxima<T>& kept, const Partials& partials,
                         cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  if (maximal && StemPool<T>::forward(out, in, window, kept, partials, stream)) return;
  const auto run = [&]<int Vector, int K>() {
    const Sweep sweep = make_sweep(out.pixels(), out.channels, Vector, kPoolForward<Vector>);
    launch(pool_forward_kernel<T, Vector, K>, sweep.grid(), sweep.block(), 0, stream, out, in,
           window, maximal, sweep, partials);
  };
  const auto fit = [&]<int Vector>() {
    return vectors_fit<Vector>(out.y, out.channels, out.pitch) && vectors_fit<Vector>(in);
  };
  const int side = window.kernel_h == window.kernel_w ? window.kernel_h : 0;
  if (side == 2 && fit.template operator()<V>())
    run.template operator()<V, 2>();
  else if (side == 3 && fit.template operator()<kManyTaps>())
    run.template operator()<kManyTaps, 3>();
  else if (fit.template operator()<kManyTaps>())
    run.template operator()<kManyTaps, 0>();
  else
    run.template operator()<1, 0>();
}

namespace {

// Whether threads can take V channels of all that a backward touches: a gate of dy wants one each.
template <int V, class T>
bool all_vectors_fit(const GradientSink<T>& sink, const GradientView<T>& dy,
                     const OperandView<T>& in) {
  return vectors_fit<V>(sink.grad, in.channels, sink.pitch) && vectors_fit<V>(in) &&
         vectors_fit<V>(dy.grad, dy.channels, dy.pitch) &&
         vectors_fit<V>(dy.x, dy.channels, dy.pitch) && !dy.gated();
}

template <class T>
void average_backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                      const OperandView<T>& in, const Window& window, const Partials& partials,
                      cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  if (all_vectors_fit<V>(sink, dy, in) && tile_the_operand(dy, in, window)) {
    const Sweep sweep = make_sweep(dy.pixels(), dy.channels, V, kTiled);
    launch(tiled_backward_kernel<T, V>, sweep.grid(), sweep.block(), 0, stream, sink, dy, in,
           window, sweep, partials);
    return;
  }
  const bool vectors = all_vectors_fit<kTwoNorms>(sink, dy, in);
  const Sweep sweep =
      make_sweep(in.pixels(), in.channels, vectors ? kTwoNorms : 1, kAverageBackward);
  launch(vectors ? average_backward_kernel<T, kTwoNorms> : average_backward_kernel<T, 1>,
         sweep.grid(), sweep.block(), 0, stream, sink, dy, in, window, sweep, partials);
}

template <class T>
void max_backward(const GradientSink<T>& sink, const GradientView<T>& dy, const OperandView<T>& in,
                  const Window& window, const Partials& partials, cudaStream_t stream) {
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, vector, {1, kChannelsPerGroup, 2});
    const MaxTiles tiles = max_tiles(in, window, sweep.lanes * vector, sweep.tiles);
    const int blocks = (tiles.items + tiles.per_tile - 1) / tiles.per_tile;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxPoolShared);
    launch(kernel, dim3(sweep.groups, blocks), sweep.block(),
           shared_bytes(tiles, sweep.lanes * vector), stream, sink, dy, in, window, tiles,
           partials);
  };
  const bool vectors = all_vectors_fit<kTwoNorms>(sink, dy, in);
  if (vectors && window.kernel_h == 3 && window.kernel_w == 3)
    run(max_backward_kernel<T, kTwoNorms, 3>, kTwoNorms);
  else if (vectors)
    run(max_backward_kernel<T, kTwoNorms, 0>, kTwoNorms);
  else
    run(max_backward_kernel<T, 1, 0>, 1);
}

}  // namespace

template <class T>
void Pooling<T>::backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                          const OperandView<T>& in, Window window, bool maximal,
                          const KeptMaxima<T>& kept, const Partials& partials,
                          cudaStream_t stream) {
  if (!sink.grad) return;
  if (maximal && StemPool<T>::backward(sink, dy, in, window, kept, partials, stream)) return;
  if (maximal)
    max_backward(sink, dy, in, window, partials, stream);
  else
    average_backward(sink, dy, in, window, partials, stream);
  if (sink.gated()) ImageSums<T>::take(sink, in, stream);
}

template struct Pooling<float>;
template struct Pooling<__half>;
template struct Pooling<__nv_bfloat16>;

}  // namespace engine::kernels
