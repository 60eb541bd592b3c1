// Pointwise convolution, the gradient of its operand: df = Wᵀ · dy with dy made from (G_y, y) on
// load, and the operand's gradient with its sums in the epilogue. If wanted, it leaves dy and f(x)
// dense for a library's product of the weight gradient. For each pixel it moves, in values of T,
// C' (G_y), C' more with a norm (y), C (G), and C more for each of x and an old G; C' and C if dy
// and f are left.
#include "kernels/gemm/kept.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {
namespace {

constexpr int kMergeThreads = 256;

// The sums of a gated operand, (N, C) each, from rows (images · pieces, kPartialsPerChannel, C).
template <class T>
__global__ void __launch_bounds__(kMergeThreads)
    merge_image_sums_kernel(GradientSink<T> sink, const float* __restrict__ rows, int images,
                            int pieces, int channels) {
  follow_as_merge();
  const int i = blockIdx.x * kMergeThreads + threadIdx.x, which = blockIdx.y;
  if (i >= images * channels) return;
  const int image = i / channels, c = i - image * channels;
  const float* row = rows + (int64_t{image} * pieces * kPartialsPerChannel + which) * channels + c;
  float sum = 0;
  for (int piece = 0; piece < pieces; ++piece)
    sum += row[int64_t{piece} * kPartialsPerChannel * channels];
  float* const to = which == 0 ? sink.dz_h : which == 1 ? sink.dz_slope : sink.dz_slope_xhat;
  to[i] = sum;
}

template <class T>
ProductWork work_of(const GradientSource<T>& source, const OperandView<T>& in, int reads) {
  const int pixels = static_cast<int>(in.pixels());
  return {.backward = true,
          .pixels = pixels,
          .area = pixels,
          .depth = source.depth(),
          .channels = in.channels,
          .streams = source.streams(),
          .reads = reads,
          .most_units = partial_rows(pixels, in.channels)};
}

template <class Shape, class T>
void run_gated(const GradientSource<T>& source, GatedEpilogue<T> epilogue, const T* weight,
               Inputs inputs, cudaStream_t stream) {
  const OperandView<T>& in = epilogue.in;
  ProductWork work = work_of(source, in, epilogue.reads());
  work.area = in.height * in.width;
  work.by_area = true;
  work.constants = epilogue.kConstants;
  work.sums = epilogue.kSums;
  const ProductCut cut = product_cut(Shape::shape, work, device_limits());
  epilogue.pieces = cut.pieces;
  launch_product<Shape>(source, epilogue, weight, inputs, cut, stream);
  if (cut.pieces == 1) return;
  const int blocks = product_blocks(int64_t{in.batch} * in.channels, kMergeThreads);
  launch(merge_image_sums_kernel<T>, dim3(blocks, epilogue.kSums), kMergeThreads, 0, stream,
         epilogue.sink, epilogue.partials, in.batch, cut.pieces, in.channels);
}

template <class Shape, class T>
void run_sink(const GradientSource<T>& source, const SinkEpilogue<T>& epilogue, const T* weight,
              Inputs inputs, cudaStream_t stream) {
  const OperandView<T>& in = epilogue.in;
  ProductWork work = work_of(source, in, epilogue.reads());
  work.constants = epilogue.kConstants;
  work.sums = epilogue.kSums;
  const ProductCut cut = product_cut(Shape::shape, work, device_limits());
  launch_product<Shape>(source, epilogue, weight, inputs, cut, stream);
  if (takes_sums(epilogue.sink))
    merge_norm_sums(norm_sums(epilogue.sink, in), epilogue.partials, cut.units, in.channels,
                    stream);
}

// True if warps that keep their channels have done it.
template <class T>
bool run_kept(const GradientSource<T>& source, const SinkEpilogue<T>& epilogue, const T* weight,
              Inputs inputs, cudaStream_t stream) {
  const OperandView<T>& in = epilogue.in;
  const bool able = (in.act == Activation::relu || in.act == Activation::silu) && !source.dy.scaled;
  if (!able || !keeps_channels(source.depth(), in.channels)) return false;
  const KeptCut cut = kept_cut(in.pixels(), in.channels, source.streams(), device_limits());
  launch_kept(source, epilogue, weight, inputs, cut, stream);
  if (takes_sums(epilogue.sink))
    merge_norm_sums(norm_sums(epilogue.sink, in), epilogue.partials, cut.units, in.channels,
                    stream);
  return true;
}

}  // namespace

template <class T>
void PointwiseDgrad<T>::run(const GradientSink<T>& sink, T* dense_dy, T* f,
                            const GradientView<T>& dy, const OperandView<T>& in, const T* weight,
                            float* partials, Inputs inputs, cudaStream_t stream) {
  const GradientSource<T> source{dy, dense_dy};
  const SinkEpilogue<T> epilogue{sink, in, f, partials};
  if (!sink.gated() && run_kept(source, epilogue, weight, inputs, stream)) return;
  visit_product_shape(dy.channels, in.channels, [&](auto shape) {
    if (sink.gated())
      run_gated<decltype(shape)>(source, GatedEpilogue<T>{sink, in, f, partials}, weight, inputs,
                                 stream);
    else
      run_sink<decltype(shape)>(source, epilogue, weight, inputs, stream);
  });
}

template struct PointwiseDgrad<__half>;
template struct PointwiseDgrad<__nv_bfloat16>;

}  // namespace engine::kernels
