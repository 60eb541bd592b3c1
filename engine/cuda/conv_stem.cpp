// The first convolution of an image by our own kernels: the statistics in the epilogue, the
// gradient completed on load.
#include "engine/cuda/conv.h"
#include "kernels/stem_tiles.h"

namespace engine::cuda {

template <class T>
std::optional<Launches> fused_stem_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    const int kernel = l.conv.window.kernel_h;
    const double weights = double(elements(l.program.graph.parameters[l.conv.weight].memory));
    const double flops = 2 * weights * l.out.pixels();
    const std::string shape =
        fmt::format("{} to {}, window {}", text_of(l.in), l.out.channels, kernel);
    if (direction == Direction::forward)
      return Launches{
          {"stem_forward",
           shape,
           {bytes_of(l.in) + weights * sizeof(T) + bytes_of(l.out), flops},
           [out = l.out, in = l.in, weight = l.weight, kernel,
            partials = sweep_partials(gpu, l.forward_partials), stream = gpu.stream.get()] {
             kernels::StemForward<T>::run(out, in, weight, kernel, partials, stream);
           }}};
    // The rows of sums are written and read, and merged by a launch of their own.
    const int64_t floats = stem_wgrad_rows(l.in.batch, l.in.height, l.in.width, kernel,
                                           l.out.channels, kernels::device_limits());
    float* rows = scratch<float>(l.program, l.plan().backward.weight, floats, "weight partials");
    const double sums = (2. * floats + weights) * sizeof(float);
    return Launches{{"stem_wgrad",
                     shape,
                     {bytes_of(l.gradient) + bytes_of(l.in) + sums, flops},
                     [dweight = l.dweight, dy = l.gradient, in = l.in, kernel, rows,
                      stream = gpu.stream.get()] {
                       kernels::StemWgrad<T>::run(dweight, dy, in, kernel, rows, stream);
                     }}};
  }
  return std::nullopt;
}

template std::optional<Launches> fused_stem_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_stem_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_stem_form(Cuda&, const Layer<__nv_bfloat16>&, Direction);

}  // namespace engine::cuda
