// The sweeps around library calls: from an operand to dense memory, from a dense output to its
// slice with statistics, from a gradient to dense memory, and the epilogue of a backward. Each
// moves what README.md beside this file lists, 16 bytes at a time where memory allows it; a
// thread's loads of some pixels leave together, and nothing waits for what another block does until
// the last block of a group of channels merges the sums.
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

// Pixels in flight and blocks of a multiprocessor, by what a thread keeps: together they have 48
// KiB of loads under way on each, twice what memory needs to be busy.
constexpr SweepKernel kLoadOperand{4, kWideGroup, 3};
constexpr SweepKernel kStoreOutput{6, kSummedGroup, 2};
constexpr SweepKernel kLoadGradient{3, kWideGroup, 2};
constexpr SweepKernel kStoreGradient{2, kSummedGroup, 2};
constexpr SweepKernel kAddStrided{4, kWideGroup, 2};
constexpr SweepKernel kBiasGradient{6, kSummedGroup, 2};

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kLoadOperand.blocks)
    load_operand_kernel(T* f, OperandView<T> in, Sweep sweep) {
  follow();
  const int c = first_channel<V>();
  if (c >= in.channels) return;
  for_pixels<kLoadOperand.in_flight>(
      sweep, [&](int p) { return load_vector<V>(in.x + int64_t{p} * in.pitch + c); },
      [&] {
        return [&, reader = OperandReader<T, V>(in, c)](int p, const Vector<T, V>& x) {
          float value[V];
          reader.value(value, x, in, p);
          store_vector(f + int64_t{p} * in.channels + c, vector_of<T>(value));
        };
      });
}

// `dense` may be out.y.
template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kStoreOutput.blocks)
    store_output_kernel(SliceView<T> out, const T* dense, const float* bias, Sweep sweep,
                        Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    const bool in_place = dense == out.y, writes = bias || !in_place;
    const int64_t pitch = in_place ? out.pitch : out.channels;
    for_pixels<kStoreOutput.in_flight>(
        sweep, [&](int p) { return load_vector<V>(dense + p * pitch + c); },
        [&] {
          Vector<float, V> offset = {};
          if (bias) {
#pragma unroll
            for (int k = 0; k < V; ++k) offset.at[k] = bias[c + k];
          }
          return [&, offset](int p, const Vector<T, V>& x) {
            float value[V];
            to_floats(value, x);
#pragma unroll
            for (int k = 0; k < V; ++k) value[k] += offset.at[k];
            writer.store(out.y + int64_t{p} * out.pitch + c, value, out.mean != nullptr, writes);
          };
        });
  }
  if (!out.mean) return;
  writer.statistics.leave(partials.rows, c, out.channels, buffer.floats);
  finish_statistics(out.mean, out.var, partials, sweep, out.channels, buffer);
}

// Without `Gated` the buffer has no learned gate.
template <class T, int V, bool Gated>
__global__ void __launch_bounds__(kSweepThreads, kLoadGradient.blocks)
    load_gradient_kernel(T* dy, GradientView<T> in, Sweep sweep) {
  follow();
  if constexpr (!Gated) in.gate = nullptr;
  const int c = first_channel<V>();
  if (c >= in.channels) return;
  using Reader = GradientReader<T, V>;
  const int area = in.height * in.width;
  for_pixels<kLoadGradient.in_flight>(
      sweep, [&](int p) { return Reader::read(in, p, c); },
      [&] {
        return [&, reader = Reader(in, c)](int p, const typename Reader::Raw& raw) {
          float value[V];
          reader.value(value, raw, in, in.gated() ? p / area : 0);
          store_vector(dy + int64_t{p} * in.channels + c, vector_of<T>(value));
        };
      });
}

// `df` may be sink.grad.
template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kStoreGradient.blocks)
    store_gradient_kernel(GradientSink<T> sink, const T* df, OperandView<T> in, Sweep sweep,
                          Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  const int c = first_channel<V>();
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    struct Raw {
      Vector<T, V> df, x, before;
    };
    const bool reads_x = writer.reads_x(sink, in), adds = sink.how == Write::add;
    for_pixels<kStoreGradient.in_flight>(
        sweep,
        [&](int p) {
          Raw raw;
          raw.df = load_vector<V>(df + int64_t{p} * in.channels + c);
          if (reads_x) raw.x = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          if (adds) raw.before = load_vector<V>(sink.grad + int64_t{p} * sink.pitch + c);
          return raw;
        },
        [&] {
          return [&, reader = OperandReader<T, V>(in, c)](int p, const Raw& raw) {
            float t[V];
            to_floats(t, raw.df);
            writer.store(sink, in, reader, t, raw.x, raw.before, p);
          };
        });
  }
  if (!takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
}

// The pixels of `sweep` are those of df.
template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kAddStrided.blocks)
    add_strided_kernel(GradientSink<T> sink, const T* df, OperandView<T> in, int height, int width,
                       int stride, Sweep sweep) {
  follow();
  const int c = first_channel<V>();
  if (c >= in.channels) return;
  struct Raw {
    T* to;
    Vector<T, V> before, df;
  };
  for_pixels<kAddStrided.in_flight>(
      sweep,
      [&](int p) {
        const int row = p / width, image = row / height;
        const int y = (row - image * height) * stride, x = (p - row * width) * stride;
        const int64_t at = (int64_t{image} * in.height + y) * in.width + x;
        Raw raw;
        raw.to = sink.grad + at * sink.pitch + c;
        raw.before = load_vector<V>(raw.to);
        raw.df = load_vector<V>(df + int64_t{p} * in.channels + c);
        return raw;
      },
      [] {
        return [](int, const Raw& raw) {
          float sum[V], added[V];
          to_floats(sum, raw.before);
          to_floats(added, raw.df);
#pragma unroll
          for (int k = 0; k < V; ++k) sum[k] += added[k];
          store_vector(raw.to, vector_of<T>(sum));
        };
      });
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kBiasGradient.blocks)
    bias_gradient_kernel(float* dbias, const T* dy, int channels, Sweep sweep, Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  const int c = first_channel<V>();
  float sum[V] = {};
  if (c < channels) {
    for_pixels<kBiasGradient.in_flight>(
        sweep, [&](int p) { return load_vector<V>(dy + int64_t{p} * channels + c); },
        [&] {
          return [&](int, const Vector<T, V>& vector) {
            float value[V];
            to_floats(value, vector);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] += value[k];
          };
        });
  }
  leave_sum(sum, 0, partials.rows, c, channels, buffer.floats);
  finish_sums<1>(partials, channels, buffer, [&](int channel, double total, double) {
    dbias[channel] += static_cast<float>(total);
  });
}

}  // namespace

template <class T>
void Sweeps<T>::load_operand(T* f, const OperandView<T>& in, cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, vector, kLoadOperand);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, f, in, sweep);
  };
  if (vectors_fit<V>(in) && vectors_fit<V>(f, in.channels, in.channels))
    run(load_operand_kernel<T, V>, V);
  else
    run(load_operand_kernel<T, 1>, 1);
}

template <class T>
void Sweeps<T>::store_output(const SliceView<T>& out, const T* dense, const float* bias,
                             const Partials& partials, cudaStream_t stream) {
  if (dense == out.y && !bias && !out.mean) return;
  constexpr int V = kSweepVector<T>;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(out.pixels(), out.channels, vector, kStoreOutput);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, out, dense, bias, sweep, partials);
  };
  if (vectors_fit<V>(out.y, out.channels, out.pitch) &&
      vectors_fit<V>(dense, out.channels, out.channels))
    run(store_output_kernel<T, V>, V);
  else
    run(store_output_kernel<T, 1>, 1);
}

template <class T>
void Sweeps<T>::load_gradient(T* dy, const GradientView<T>& gradient, cudaStream_t stream) {
  constexpr int V = kSweepVector<T>, kGatedV = 4;  // gates take registers
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(gradient.pixels(), gradient.channels, vector, kLoadGradient);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, dy, gradient, sweep);
  };
  const auto fit = [&]<int Vector>() {
    return vectors_fit<Vector>(gradient.grad, gradient.channels, gradient.pitch) &&
           vectors_fit<Vector>(gradient.x, gradient.channels, gradient.pitch) &&
           vectors_fit<Vector>(dy, gradient.channels, gradient.channels);
  };
  if (!gradient.gated() && fit.template operator()<V>())
    run(load_gradient_kernel<T, V, false>, V);
  else if (fit.template operator()<kGatedV>())
    run(load_gradient_kernel<T, kGatedV, true>, kGatedV);
  else
    run(load_gradient_kernel<T, 1, true>, 1);
}

template <class T>
void Sweeps<T>::store_gradient(const GradientSink<T>& sink, const T* df, const OperandView<T>& in,
                               const Partials& partials, cudaStream_t stream) {
  if (!sink.wanted()) return;
  const bool in_place = df == sink.grad && sink.how == Write::assign;
  if (!in_place || !(in.plain() || sink.gated())) {
    constexpr int V = kSweepVector<T>;
    const auto run = [&](auto kernel, int vector) {
      const Sweep sweep = make_sweep(in.pixels(), in.channels, vector, kStoreGradient);
      launch(kernel, sweep.grid(), sweep.block(), 0, stream, sink, df, in, sweep, partials);
    };
    if (vectors_fit<V>(sink.grad, in.channels, sink.pitch) && vectors_fit<V>(in) &&
        vectors_fit<V>(df, in.channels, in.channels))
      run(store_gradient_kernel<T, V>, V);
    else
      run(store_gradient_kernel<T, 1>, 1);
  }
  if (sink.gated()) ImageSums<T>::take(sink, in, stream);
}

template <class T>
void Sweeps<T>::add_strided(const GradientSink<T>& sink, const T* df, const OperandView<T>& in,
                            int height, int width, int stride, cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep =
        make_sweep(int64_t{in.batch} * height * width, in.channels, vector, kAddStrided);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, sink, df, in, height, width, stride,
           sweep);
  };
  if (vectors_fit<V>(sink.grad, in.channels, sink.pitch) &&
      vectors_fit<V>(df, in.channels, in.channels))
    run(add_strided_kernel<T, V>, V);
  else
    run(add_strided_kernel<T, 1>, 1);
}

template <class T>
void Sweeps<T>::bias_gradient(float* dbias, const T* dy, int64_t pixels, int channels,
                              const Partials& partials, cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(pixels, channels, vector, kBiasGradient);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, dbias, dy, channels, sweep, partials);
  };
  if (vectors_fit<V>(dy, channels, channels))
    run(bias_gradient_kernel<T, V>, V);
  else
    run(bias_gradient_kernel<T, 1>, 1);
}

template struct Sweeps<float>;
template struct Sweeps<__half>;
template struct Sweeps<__nv_bfloat16>;

}  // namespace engine::kernels
