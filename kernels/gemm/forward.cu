// Pointwise convolution, forward: y = W · f(x), with f made on load and the statistics of y taken
// in the epilogue. It moves C + C' values of T for each pixel; where the output is cut into groups,
// each reads the operand again, from L2.
#include "kernels/gemm/product.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {

template <class T>
void PointwiseForward<T>::run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                              float* partials, cudaStream_t stream) {
  const int pixels = static_cast<int>(out.pixels());
  const ProductWork work{.pixels = pixels,
                         .area = in.gate ? in.height * in.width : pixels,
                         .depth = in.channels,
                         .channels = out.channels,
                         .sums = OutputEpilogue<T>::kSums,
                         .most_units = partial_rows(pixels, out.channels)};
  visit_product_shape(in.channels, out.channels, [&](auto shape) {
    const ProductCut cut = product_cut(shape.shape, work, device_limits());
    launch_product<decltype(shape)>(OperandSource<T>{in}, OutputEpilogue<T>{out, partials}, weight,
                                    Inputs::fresh, cut, stream);
    if (!out.mean) return;
    const TileCounts counts{cut.area, 1, kProductTile, cut.strips, cut.tiles, cut.per};
    merge_statistics(out.mean, out.var, partials, counts, out.channels, stream);
  });
}

template struct PointwiseForward<__half>;
template struct PointwiseForward<__nv_bfloat16>;

}  // namespace engine::kernels
