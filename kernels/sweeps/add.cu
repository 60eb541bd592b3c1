// The sum of two operands, with the statistics of what is stored. Its backward is load_gradient()
// and store_gradient().
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

constexpr SweepKernel kAdd{2, kSummedGroup, 2};

// With `Plain`, b is read as it lies: its norm would take registers.
template <class T, int V, bool Plain>
__global__ void __launch_bounds__(kSweepThreads, kAdd.blocks)
    add_forward_kernel(SliceView<T> out, OperandView<T> a, OperandView<T> b, Sweep sweep,
                       Partials partials) {
  __shared__ SumBuffer<V> buffer;
  follow();
  if constexpr (Plain) b = {.x = b.x, .channels = b.channels, .pitch = b.pitch};
  const int c = first_channel<V>();
  OutputWriter<T, V> writer;
  if (c < out.channels) {
    struct Raw {
      Vector<T, V> a, b;
    };
    for_pixels<kAdd.in_flight>(
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
            for (int k = 0; k < V; ++k) sum[k] += other[k];
            writer.store(out.y + int64_t{p} * out.pitch + c, sum, out.mean != nullptr);
          };
        });
  }
  if (!out.mean) return;
  writer.statistics.leave(partials.rows, c, out.channels, buffer.floats);
  finish_statistics(out.mean, out.var, partials, sweep, out.channels, buffer);
}

}  // namespace

template <class T>
void Addition<T>::forward(const SliceView<T>& out, const OperandView<T>& a, const OperandView<T>& b,
                          const Partials& partials, cudaStream_t stream) {
  if (a.plain() && !b.plain()) return forward(out, b, a, partials, stream);
  constexpr int V = kSweepVector<T>, kTwoNorms = 4;
  const auto run = [&](auto kernel, int vector) {
    const Sweep sweep = make_sweep(out.pixels(), out.channels, vector, kAdd);
    launch(kernel, sweep.grid(), sweep.block(), 0, stream, out, a, b, sweep, partials);
  };
  const auto fit = [&]<int Vector>() {
    return vectors_fit<Vector>(out.y, out.channels, out.pitch) && vectors_fit<Vector>(a) &&
           vectors_fit<Vector>(b);
  };
  if (b.plain() && fit.template operator()<V>())
    run(add_forward_kernel<T, V, true>, V);
  else if (fit.template operator()<kTwoNorms>())
    run(add_forward_kernel<T, kTwoNorms, false>, kTwoNorms);
  else
    run(add_forward_kernel<T, 1, false>, 1);
}

template struct Addition<float>;
template struct Addition<__half>;
template struct Addition<__nv_bfloat16>;

}  // namespace engine::kernels
