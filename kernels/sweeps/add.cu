// The sum of two operands, with the statistics of what is stored. Its backward is load_gradient()
// and store_gradient(); of a sum that is stored activated, a sweep that multiplies the gradient by
// the slope and serves one operand on the way.
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

template <bool Summed>  // with statistics, which take registers
constexpr SweepKernel kAdd =
    Summed ? SweepKernel{2, kSummedGroup, 2} : SweepKernel{3, kWideGroup, 2};
constexpr SweepKernel kAddBackward{2, kSummedGroup, 2};

// With `Plain`, b is read as it lies: its norm would take registers.
template <class T, int V, bool Plain, bool Summed>
__global__ void __launch_bounds__(kSweepThreads, kAdd<Summed>.blocks)
    add_forward_kernel(SliceView<T> out, OperandView<T> a, OperandView<T> b, Activation act,
                       Sweep sweep, Partials partials) {
  follow();
  if constexpr (Plain) b = {.x = b.x, .channels = b.channels, .pitch = b.pitch};
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    struct Raw {
      Vector<T, V> a, b;
    };
    for_pixels<kAdd<Summed>.in_flight>(
        sweep,
        [&](int p) {
          return Raw{load_vector<V>(a.x + int64_t{p} * a.pitch + c),
                     load_vector<V>(b.x + int64_t{p} * b.pitch + c)};
        },
        [&] {
          return [&, read_a = OperandReader<T, V>(a, c), read_b = OperandReader<T, V>(b, c)](
                     int p, const Raw& raw) {
            float sum[V], other[V];
            read_a.value(sum, raw.a, a, p);
            read_b.value(other, raw.b, b, p);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] = activate(act, sum[k] + other[k]).h;
            writer.store(out.y + int64_t{p} * out.pitch + c, sum, Summed);
          };
        });
  }
  if constexpr (Summed) {
    __shared__ SumBuffer<V> buffer;
    writer.statistics.leave(partials.rows, c, out.channels, buffer.floats);
    finish_statistics(out.mean, out.var, partials, sweep, out.channels, buffer);
  }
}

template <class T, bool Summed>
void forward(const SliceView<T>& out, const OperandView<T>& a, const OperandView<T>& b,
             Activation act, const Partials& partials, cudaStream_t stream) {
  constexpr int V = kSweepVector<T>, kTwoNorms = 4;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(out.pixels(), out.channels, vector, kAdd<Summed>);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, out, a, b, act, sweep, partials);
  };
  const auto fit = [&]<int Vector>() {
    return vectors_fit<Vector>(out.y, out.channels, out.pitch) && vectors_fit<Vector>(a) &&
           vectors_fit<Vector>(b);
  };
  if (b.plain() && fit.template operator()<V>())
    run(add_forward_kernel<T, V, true, Summed>, V);
  else if (fit.template operator()<kTwoNorms>())
    run(add_forward_kernel<T, kTwoNorms, false, Summed>, kTwoNorms);
  else
    run(add_forward_kernel<T, 1, false, Summed>, 1);
}

template <class T, int V>
__global__ void __launch_bounds__(kSweepThreads, kAddBackward.blocks)
    add_backward_kernel(ActivatedGradient<T> sum, GradientSink<T> sink, OperandView<T> in,
                        Sweep sweep, Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  const int c = first_channel<V>();
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    struct Raw {
      Vector<T, V> dh, h, x, before;
    };
    const bool reads_x = sink.grad && writer.reads_x(sink, in),
               adds = sink.grad && sink.how == Write::add;
    for_pixels<kAddBackward.in_flight>(
        sweep,
        [&](int p) {
          Raw raw;
          const int64_t at = int64_t{p} * in.channels + c;
          raw.dh = load_vector<V>(sum.dy + at);
          raw.h = load_vector<V>(sum.h + at);
          if (reads_x) raw.x = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          if (adds) raw.before = load_vector<V>(sink.grad + int64_t{p} * sink.pitch + c);
          return raw;
        },
        [&] {
          return [&, reader = OperandReader<T, V>(in, c)](int p, const Raw& raw) {
            float t[V], h[V];
            to_floats(t, raw.dh);
            to_floats(h, raw.h);
#pragma unroll
            for (int k = 0; k < V; ++k) t[k] *= activate(sum.act, h[k]).slope;
            store_vector(sum.dy + int64_t{p} * in.channels + c, vector_of<T>(t));
            if (sink.grad) writer.store(sink, in, reader, t, raw.x, raw.before, p);
          };
        });
  }
  if (!sink.grad || !takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
}

}  // namespace

template <class T>
void Addition<T>::forward(const SliceView<T>& out, const OperandView<T>& a, const OperandView<T>& b,
                          Activation act, const Partials& partials, cudaStream_t stream) {
  const bool swapped = a.plain() && !b.plain();
  const OperandView<T>&first = swapped ? b : a, &second = swapped ? a : b;
  if (out.mean)
    kernels::forward<T, true>(out, first, second, act, partials, stream);
  else
    kernels::forward<T, false>(out, first, second, act, partials, stream);
}

template <class T>
void Addition<T>::backward(const ActivatedGradient<T>& sum, const GradientSink<T>& sink,
                           const OperandView<T>& in, const Partials& partials,
                           cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, vector, kAddBackward);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, sum, sink, in, sweep, partials);
  };
  if (vectors_fit<V>(sum.dy, in.channels, in.channels) &&
      vectors_fit<V>(sum.h, in.channels, in.channels) && vectors_fit<V>(in) &&
      (!sink.grad || vectors_fit<V>(sink.grad, in.channels, sink.pitch)))
    run(add_backward_kernel<T, V>, V);
  else
    run(add_backward_kernel<T, 1>, 1);
}

template struct Addition<float>;
template struct Addition<__half>;
template struct Addition<__nv_bfloat16>;

}  // namespace engine::kernels
