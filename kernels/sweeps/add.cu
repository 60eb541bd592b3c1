// The sum of two operands, with the statistics of what is stored. Its backward is load_gradient()
// and store_gradient(); of a sum that is stored activated, a sweep that multiplies the gradient by
// the slope and serves one operand on the way.
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

// An operand that is read as it lies, and one behind a norm and nothing else: fewer registers than
// an OperandReader's, hence more channels of a thread.
template <class T, int V>
struct PlainReader {
  __device__ __forceinline__ PlainReader(const OperandView<T>&, int) {}
  __device__ __forceinline__ void value(float (&f)[V], const Vector<T, V>& x, const OperandView<T>&,
                                        int) const {
    to_floats(f, x);
  }
};
template <class T, int V>
struct NormReader {
  FoldedNorm norm[V];

  __device__ __forceinline__ NormReader(const OperandView<T>& in, int c) {
    load_norm(norm, in.norm, c, in.channels);
  }
  __device__ __forceinline__ void value(float (&f)[V], const Vector<T, V>& x, const OperandView<T>&,
                                        int) const {
    to_floats(f, x);
#pragma unroll
    for (int k = 0; k < V; ++k) f[k] = fmaf(norm[k].scale(), f[k] - norm[k].mean, norm[k].beta);
  }
};

// Statistics take registers, and so does a second operand that is not plain.
template <bool Plain, bool Summed>
constexpr SweepKernel kAdd = Summed  ? SweepKernel{Plain ? 2 : 1, kSummedGroup, 2}
                             : Plain ? SweepKernel{3, kWideGroup, 2}
                                     : SweepKernel{2, kWideGroup, 2};
template <class Reader>
constexpr bool kReadsPlain = false;
template <class T, int V>
constexpr bool kReadsPlain<PlainReader<T, V>> = true;
constexpr SweepKernel kAddBackward{2, kSummedGroup, 2};
template <int Operands>
constexpr SweepKernel kAddSums{3 - Operands, 128, 3};

// The bytes of ActivatedGradient::slopes.
template <class T>
__device__ __forceinline__ uint8_t slopes_of(const Vector<T, kSlopesOfByte>& stored,
                                             Activation act) {
  float h[kSlopesOfByte];
  to_floats(h, stored);
  unsigned bits = 0;
  const auto take = [&](Activation constant) {
#pragma unroll
    for (int k = 0; k < kSlopesOfByte; ++k)
      bits |= activate(constant, h[k]).slope != 0 ? 1u << k : 0u;
  };
  if (act == Activation::relu6)
    take(Activation::relu6);
  else
    take(Activation::relu);
  return static_cast<uint8_t>(bits);
}

template <class T, int V, class ReaderA, class ReaderB, bool Summed>
__global__ void __launch_bounds__(kSweepThreads, kAdd<kReadsPlain<ReaderB>, Summed>.blocks)
    add_forward_kernel(SliceView<T> out, uint8_t* slopes, OperandView<T> a, OperandView<T> b,
                       Activation act, Sweep sweep, Partials partials) {
  follow();
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    struct Raw {
      Vector<T, V> a, b;
    };
    constexpr bool kPlain = kReadsPlain<ReaderB>;
    for_pixels<kAdd<kPlain, Summed>.in_flight, kPlain && !Summed>(
        sweep,
        [&](int p) {
          return Raw{load_vector<V>(a.x + int64_t{p} * a.pitch + c),
                     load_vector<V>(b.x + int64_t{p} * b.pitch + c)};
        },
        [&] {
          return [&, read_a = ReaderA(a, c), read_b = ReaderB(b, c)](int p, const Raw& raw) {
            float sum[V], other[V];
            read_a.value(sum, raw.a, a, p);
            read_b.value(other, raw.b, b, p);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] = activate(act, sum[k] + other[k]).h;
            writer.store(out.y + int64_t{p} * out.pitch + c, sum, Summed);
            if constexpr (V == kSlopesOfByte)
              if (slopes)
                slopes[slope_byte(sweep.pixels, p, c)] = slopes_of(vector_of<T>(sum), act);
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
void forward(const SliceView<T>& out, uint8_t* slopes, const OperandView<T>& a,
             const OperandView<T>& b, Activation act, const Partials& partials,
             cudaStream_t stream) {
  constexpr int V = kSweepVector<T>, kTwoReaders = 4;
  const auto run = [&](auto kernel, int vector) {
    const SweepKernel& how = b.plain() ? kAdd<true, Summed> : kAdd<false, Summed>;
    const Sweep sweep = make_sweep(out.pixels(), out.channels, vector, how);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, out, slopes, a, b, act, sweep, partials);
  };
  const auto fit = [&]<int Vector>() {
    return vectors_fit<Vector>(out.y, out.channels, out.pitch) && vectors_fit<Vector>(a) &&
           vectors_fit<Vector>(b);
  };
  const auto at_most_norm = [](const OperandView<T>& in) {
    return in.act == Activation::none && !in.gate && !in.random.present();
  };
  const bool fits = fit.template operator()<V>();
  if (fits && b.plain())
    run(add_forward_kernel<T, V, OperandReader<T, V>, PlainReader<T, V>, Summed>, V);
  else if (fits && at_most_norm(a) && at_most_norm(b))
    run(add_forward_kernel<T, V, NormReader<T, V>, NormReader<T, V>, Summed>, V);
  else if (fit.template operator()<kTwoReaders>())
    run(add_forward_kernel<T, kTwoReaders, OperandReader<T, kTwoReaders>,
                           OperandReader<T, kTwoReaders>, Summed>,
        kTwoReaders);
  else
    run(add_forward_kernel<T, 1, OperandReader<T, 1>, OperandReader<T, 1>, Summed>, 1);
}

// The slope of V channels, from a byte that says which are 1, or from h.
template <class T, int V, bool Bits>
struct SlopeReader {
  using Raw = std::conditional_t<Bits, uint8_t, Vector<T, V>>;

  // At pixel p of `pixels`, from channel c of `channels` on.
  __device__ __forceinline__ static Raw read(const ActivatedGradient<T>& sum, int pixels, int p,
                                             int c, int channels) {
    if constexpr (Bits)
      return sum.slopes[slope_byte(pixels, p, c)];
    else
      return load_vector<V>(sum.h + int64_t{p} * channels + c);
  }
  __device__ __forceinline__ static void multiply(float (&t)[V], const Raw& raw, Activation act) {
    if constexpr (Bits) {
#pragma unroll
      for (int k = 0; k < V; ++k) t[k] *= raw >> k & 1 ? 1.f : 0.f;
    } else {
      float h[V];
      to_floats(h, raw);
#pragma unroll
      for (int k = 0; k < V; ++k) t[k] *= activate(act, h[k]).slope;
    }
  }
};

template <class T, int V, bool Bits>
__global__ void __launch_bounds__(kSweepThreads, kAddBackward.blocks)
    add_backward_kernel(ActivatedGradient<T> sum, SummedOperand<T> operand, Sweep sweep,
                        Partials partials) {
  using Slopes = SlopeReader<T, V, Bits>;
  __shared__ SumBuffer<V> buffer;
  const GradientSink<T>& sink = operand.sink;
  const OperandView<T>& in = operand.in;
  follow();
  const int c = first_channel<V>();
  GradientWriter<T, V> writer;
  if (c < in.channels) {
    struct Raw {
      Vector<T, V> dh, x, before;
      typename Slopes::Raw slopes;
    };
    const bool reads_x = sink.grad && writer.reads_x(sink, in),
               adds = sink.grad && sink.how == Write::add;
    for_pixels<kAddBackward.in_flight>(
        sweep,
        [&](int p) {
          Raw raw;
          const int64_t at = int64_t{p} * in.channels + c;
          raw.dh = load_vector<V>(sum.dy + at);
          raw.slopes = Slopes::read(sum, sweep.pixels, p, c, in.channels);
          if (reads_x) raw.x = load_vector<V>(in.x + int64_t{p} * in.pitch + c);
          if (adds) raw.before = load_vector<V>(sink.grad + int64_t{p} * sink.pitch + c);
          return raw;
        },
        [&] {
          return [&, reader = OperandReader<T, V>(in, c)](int p, const Raw& raw) {
            float t[V];
            to_floats(t, raw.dh);
            Slopes::multiply(t, raw.slopes, sum.act);
            store_vector(sum.dy + int64_t{p} * in.channels + c, vector_of<T>(t));
            if (sink.grad) writer.store(sink, in, reader, t, raw.x, raw.before, p);
          };
        });
  }
  if (!sink.grad || !takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
}

// The sums of operands behind a norm and nothing else, whose gradients nobody writes: Σt is of all
// of them.
template <class T, int V, int Operands, bool Bits>
__global__ void __launch_bounds__(kSweepThreads, kAddSums<Operands>.blocks)
    add_sums_kernel(ActivatedGradient<T> sum, SummedOperand<T> first, SummedOperand<T> second,
                    Sweep sweep, Partials partials) {
  using Slopes = SlopeReader<T, V, Bits>;
  __shared__ SumBuffer<V> buffer;
  follow();
  const SummedOperand<T>* const operands[] = {&first, &second};
  const int c = first_channel<V>(), channels = first.in.channels;
  float sum_t[V] = {}, sum_t_x[Operands][V] = {};
  if (c < channels) {
    struct Raw {
      Vector<T, V> dh, x[Operands];
      typename Slopes::Raw slopes;
    };
    for_pixels<kAddSums<Operands>.in_flight>(
        sweep,
        [&](int p) {
          Raw raw;
          const int64_t at = int64_t{p} * channels + c;
          raw.dh = load_vector<V>(sum.dy + at);
          raw.slopes = Slopes::read(sum, sweep.pixels, p, c, channels);
#pragma unroll
          for (int i = 0; i < Operands; ++i)
            raw.x[i] = load_vector<V>(operands[i]->in.x + int64_t{p} * operands[i]->in.pitch + c);
          return raw;
        },
        [&] {
          Vector<float, V> mean[Operands];
#pragma unroll
          for (int i = 0; i < Operands; ++i)
            load_floats(mean[i].at, operands[i]->in.norm.mean + c, 0.f);
          return [&, mean](int p, const Raw& raw) {
            float t[V];
            to_floats(t, raw.dh);
            Slopes::multiply(t, raw.slopes, sum.act);
            store_vector(sum.dy + int64_t{p} * channels + c, vector_of<T>(t));
#pragma unroll
            for (int k = 0; k < V; ++k) sum_t[k] += t[k];
#pragma unroll
            for (int i = 0; i < Operands; ++i) {
              float x[V];
              to_floats(x, raw.x[i]);
#pragma unroll
              for (int k = 0; k < V; ++k)
                sum_t_x[i][k] = fmaf(t[k], x[k] - mean[i].at[k], sum_t_x[i][k]);
            }
          };
        });
  }
  leave_sum(sum_t, 0, partials.rows, c, channels, buffer.floats);
#pragma unroll
  for (int i = 0; i < Operands; ++i) {
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (c + k < channels) sum_t_x[i][k] *= operands[i]->in.norm.channel(c + k).inv_std;
    leave_sum(sum_t_x[i], 1 + i, partials.rows, c, channels, buffer.floats);
  }
  if (!comes_last(partials.done)) return;
#pragma unroll
  for (int i = 0; i < Operands; ++i) {
    const NormSums sums = norm_sums(operands[i]->sink, operands[i]->in);
    merge_sums(partials.rows, {0, 1 + i}, channels, buffer,
               [&](int at, double t, double t_xhat) { sums.add(at, t, t_xhat); });
    __syncthreads();
  }
}

template <class T, int V, bool Bits>
void backward(const ActivatedGradient<T>& sum, const SummedOperand<T>& first,
              const SummedOperand<T>& second, const Partials& partials, cudaStream_t stream) {
  const OperandView<T>& in = first.in;
  const auto run = [&](auto kernel, const SweepKernel& how, const auto&... operands) {
    const Sweep sweep = make_sweep(in.pixels(), in.channels, V, how);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, sum, operands..., sweep, partials);
  };
  if (first.sink.grad || !takes_sums(first.sink))
    run(add_backward_kernel<T, V, Bits>, kAddBackward, first);
  else if (takes_sums(second.sink))
    run(add_sums_kernel<T, V, 2, Bits>, kAddSums<2>, first, second);
  else
    run(add_sums_kernel<T, V, 1, Bits>, kAddSums<1>, first, second);
}

}  // namespace

template <class T>
void Addition<T>::forward(const SliceView<T>& out, uint8_t* slopes, const OperandView<T>& a,
                          const OperandView<T>& b, Activation act, const Partials& partials,
                          cudaStream_t stream) {
  const bool swapped = a.plain() && !b.plain();
  const OperandView<T>&first = swapped ? b : a, &second = swapped ? a : b;
  if (out.mean)
    kernels::forward<T, true>(out, slopes, first, second, act, partials, stream);
  else
    kernels::forward<T, false>(out, slopes, first, second, act, partials, stream);
}

template <class T>
void Addition<T>::backward(const ActivatedGradient<T>& sum, const SummedOperand<T>& first,
                           const SummedOperand<T>& second, const Partials& partials,
                           cudaStream_t stream) {
  constexpr int V = kSweepVector<T>;
  const auto fit = [&](const SummedOperand<T>& operand) {
    return vectors_fit<V>(operand.in) &&
           vectors_fit<V>(operand.sink.grad, operand.in.channels, operand.sink.pitch);
  };
  const int channels = first.in.channels;
  const bool fits = vectors_fit<V>(sum.dy, channels, channels) &&
                    vectors_fit<V>(sum.h, channels, channels) && fit(first) && fit(second);
  if constexpr (V == kSlopesOfByte)
    if (fits && sum.slopes)
      return kernels::backward<T, V, true>(sum, first, second, partials, stream);
  if (fits)
    kernels::backward<T, V, false>(sum, first, second, partials, stream);
  else
    kernels::backward<T, 1, false>(sum, first, second, partials, stream);
}

template struct Addition<float>;
template struct Addition<__half>;
template struct Addition<__nv_bfloat16>;

}  // namespace engine::kernels
