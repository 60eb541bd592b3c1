// Dense 3 × 3 convolutions by our own kernels, fused on both sides.
#include "engine/cuda/conv.h"
#include "kernels/dense_tiles.h"

namespace engine::cuda {

namespace {

template <class T>
struct Dense {
  const Cuda& gpu;
  const Layer<T>& l;
  double weights = double(elements(l.program.graph.parameters[l.conv.weight].memory));
  double flops = 2 * weights * l.out.pixels();
  std::string shape = fmt::format("{} to {}/{}", text_of(l.in), l.out.channels, l.out.pitch);

  Launch forward() const {
    return {"dense_forward",
            shape,
            {bytes_of(l.in) + weights * sizeof(T) + bytes_of(l.out), flops},
            [out = l.out, in = l.in, weight = l.weight,
             partials = sweep_partials(gpu, l.forward_partials), stream = gpu.stream.get()] {
              kernels::DenseForward<T>::run(out, in, weight, partials, stream);
            }};
  }

  // It follows the gradient of the weight, which reads the same.
  Launch dgrad() const {
    const double moved =
        bytes_of(l.gradient) + weights * sizeof(T) + epilogue_bytes(l.in) + bytes_of(l.sink, l.in);
    return {"dense_dgrad",
            shape + (l.sink.how == Write::add ? " +=" : " ="),
            {moved, flops},
            [sink = l.sink, dy = l.gradient, in = l.in, weight = l.weight,
             partials = sweep_partials(gpu, l.backward_partials), stream = gpu.stream.get()] {
              kernels::DenseDgrad<T>::run(sink, dy, in, weight, partials, kernels::Inputs::settled,
                                          stream);
            }};
  }

  // Its rows of sums are written and read, and merged by a launch of its own.
  Launch wgrad() const {
    const int64_t floats = dense_wgrad_rows(l.in.batch, l.in.height, l.in.width, l.in.channels,
                                            l.out.channels, kernels::device_limits());
    float* rows = scratch<float>(l.program, l.plan().backward.weight, floats, "weight partials");
    const double sums = (2. * floats + weights) * sizeof(float);
    return {"dense_wgrad",
            shape,
            {bytes_of(l.gradient) + bytes_of(l.in) + sums, flops},
            [dweight = l.dweight, dy = l.gradient, in = l.in, rows, stream = gpu.stream.get()] {
              kernels::DenseWgrad<T>::run(dweight, dy, in, rows, stream);
            }};
  }
};

}  // namespace

template <class T>
std::optional<Launches> fused_dense_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    const Dense<T> dense{gpu, l};
    Launches launches;
    if (direction == Direction::forward) {
      launches.push_back(dense.forward());
    } else {
      launches.push_back(dense.wgrad());
      if (l.sink.grad) launches.push_back(dense.dgrad());
    }
    return launches;
  }
  return std::nullopt;
}

template std::optional<Launches> fused_dense_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_dense_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_dense_form(Cuda&, const Layer<__nv_bfloat16>&, Direction);

}  // namespace engine::cuda
