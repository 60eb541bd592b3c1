// The sweeps around library calls: from an operand to dense memory, from a dense output to its
// slice with statistics, from a gradient to dense memory, and the epilogue of a backward.
#include "kernels/kernels.h"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 4)
    load_operand_kernel(T* f, OperandView<T> in, Sweep sweep) {
  const int c = first_channel<V>();
  if (c >= in.channels) return;
  const OperandReader<T, V> reader(in, c);
  for_pixels(
      sweep, [&](int p) { return load_vector<V>(in.x + int64_t{p} * in.pitch + c); },
      [&](int p, const Vector<T, V>& x) {
        float value[V];
        reader.value(value, x, in, p);
        store_vector(f + int64_t{p} * in.channels + c, vector_of<T>(value));
      });
}

// `dense` may be out.y.
template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 4)
    store_output_kernel(SliceView<T> out, const T* dense, const float* bias, Sweep sweep,
                        float* partials) {
  __shared__ float buffer[V * kSweepThreads];
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    float offset[V] = {};
    if (bias) {
#pragma unroll
      for (int k = 0; k < V; ++k) offset[k] = bias[c + k];
    }
    const bool in_place = dense == out.y, writes = bias || !in_place;
    const int64_t pitch = in_place ? out.pitch : out.channels;
    for_pixels(
        sweep, [&](int p) { return load_vector<V>(dense + p * pitch + c); },
        [&](int p, const Vector<T, V>& x) {
          float value[V];
          to_floats(value, x);
#pragma unroll
          for (int k = 0; k < V; ++k) value[k] += offset[k];
          writer.store(out.y + int64_t{p} * out.pitch + c, value, out.mean != nullptr, writes);
        });
  }
  if (out.mean) writer.statistics.leave(partials, c, out.channels, buffer);
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 3)
    load_gradient_kernel(T* dy, GradientView<T> in, Sweep sweep) {
  const int c = first_channel<V>();
  if (c >= in.channels) return;
  const GradientReader<T, V> reader(in, c);
  const int area = in.height * in.width;
  for_pixels<kPairsInFlight<T>>(
      sweep, [&](int p) { return reader.read(in, p); },
      [&](int p, const typename GradientReader<T, V>::Raw& raw) {
        float value[V];
        reader.value(value, raw, in, in.gated() ? p / area : 0);
        store_vector(dy + int64_t{p} * in.channels + c, vector_of<T>(value));
      });
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 3)
    store_gradient_kernel(GradientSink<T> sink, const T* df, OperandView<T> in, Sweep sweep,
                          float* partials) {
  __shared__ float buffer[V * kSweepThreads];
  const int c = first_channel<V>();
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    struct Raw {
      Vector<T, V> df, x;
    };
    const OperandReader<T, V> reader(in, c);
    const bool reads_x = writer.reads_x(sink, in);
    for_pixels<kPairsInFlight<T>>(
        sweep,
        [&](int p) {
          Raw raw;
          raw.df = load_vector<V>(df + int64_t{p} * in.channels + c);
          if (reads_x) raw.x = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          return raw;
        },
        [&](int p, const Raw& raw) {
          float value[V];
          Loaded<float> x[V];
          to_floats(value, raw.df);
          if (reads_x) reader.load(x, raw.x, in);
          writer.store(sink, in, reader, value, x, p);
        });
  }
  if (takes_sums(sink)) writer.leave(partials, c, in.channels, buffer);
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, 4)
    bias_gradient_kernel(const T* dy, int channels, Sweep sweep, float* partials) {
  __shared__ float buffer[V * kSweepThreads];
  const int c = first_channel<V>();
  float sum[V] = {};
  if (c < channels) {
    for_pixels(
        sweep, [&](int p) { return load_vector<V>(dy + int64_t{p} * channels + c); },
        [&](int, const Vector<T, V>& vector) {
          float value[V];
          to_floats(value, vector);
#pragma unroll
          for (int k = 0; k < V; ++k) sum[k] += value[k];
        });
  }
  leave_sum(sum, 0, partials, c, channels, buffer);
}

}  // namespace

template <class T>
void Sweeps<T>::load_operand(T* f, const OperandView<T>& in, cudaStream_t stream) {
  constexpr int V = kSweepVector;
  const auto launch = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, v);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(f, in, sweep);
  };
  if (vectors_fit<V>(in) && vectors_fit<V>(f, in.channels, in.channels))
    launch(load_operand_kernel<T, V>, V);
  else
    launch(load_operand_kernel<T, 1>, 1);
}

template <class T>
void Sweeps<T>::store_output(const SliceView<T>& out, const T* dense, const float* bias,
                             float* partials, cudaStream_t stream) {
  if (dense == out.y && !bias && !out.mean) return;
  constexpr int V = kSweepVector;
  const auto launch = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(out.pixels(), out.channels, v);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(out, dense, bias, sweep, partials);
    if (out.mean)
      merge_statistics(out.mean, out.var, partials, tile_counts(sweep), out.channels, stream);
  };
  if (vectors_fit<V>(out.y, out.channels, out.pitch) &&
      vectors_fit<V>(dense, out.channels, out.channels))
    launch(store_output_kernel<T, V>, V);
  else
    launch(store_output_kernel<T, 1>, 1);
}

template <class T>
void Sweeps<T>::load_gradient(T* dy, const GradientView<T>& gradient, cudaStream_t stream) {
  constexpr int V = kSweepVector;
  const auto launch = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(gradient.pixels(), gradient.channels, v);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(dy, gradient, sweep);
  };
  if (vectors_fit<V>(gradient.grad, gradient.channels, gradient.pitch) &&
      vectors_fit<V>(gradient.x, gradient.channels, gradient.pitch) &&
      vectors_fit<V>(dy, gradient.channels, gradient.channels))
    launch(load_gradient_kernel<T, V>, V);
  else
    launch(load_gradient_kernel<T, 1>, 1);
}

template <class T>
void Sweeps<T>::store_gradient(const GradientSink<T>& sink, const T* df, const OperandView<T>& in,
                               float* partials, cudaStream_t stream) {
  if (!sink.grad) return;
  const bool in_place = df == sink.grad && sink.how == Write::assign;
  if (!in_place || !(in.plain() || sink.gated())) {
    constexpr int V = kSweepVector;
    const auto launch = [&](auto kernel, int v) {
      const Sweep sweep = make_sweep(in.pixels(), in.channels, v);
      kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(sink, df, in, sweep, partials);
      if (takes_sums(sink))
        merge_norm_sums(norm_sums(sink, in), partials, sweep.tiles, in.channels, stream);
    };
    if (vectors_fit<V>(sink.grad, in.channels, sink.pitch) && vectors_fit<V>(in) &&
        vectors_fit<V>(df, in.channels, in.channels))
      launch(store_gradient_kernel<T, V>, V);
    else
      launch(store_gradient_kernel<T, 1>, 1);
  }
  if (sink.gated()) ImageSums<T>::take(sink, in, stream);
}

template <class T>
void Sweeps<T>::bias_gradient(float* dbias, const T* dy, int64_t pixels, int channels,
                              float* partials, cudaStream_t stream) {
  constexpr int V = kSweepVector;
  const auto launch = [&](auto kernel, int v) {
    const Sweep sweep = make_sweep(pixels, channels, v);
    kernel<<<sweep.grid(), sweep.block(), 0, stream>>>(dy, channels, sweep, partials);
    merge_rows(dbias, partials, sweep.tiles, 1, kPartialsPerChannel, channels, true, stream);
  };
  if (vectors_fit<V>(dy, channels, channels))
    launch(bias_gradient_kernel<T, V>, V);
  else
    launch(bias_gradient_kernel<T, 1>, 1);
}

template struct Sweeps<float>;
template struct Sweeps<__half>;
template struct Sweeps<__nv_bfloat16>;

}  // namespace engine::kernels
