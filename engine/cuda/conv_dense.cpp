// Dense 3 × 3 convolutions by our own kernels, fused on both sides.
#include "engine/cuda/conv.h"

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
};

}  // namespace

template <class T>
std::optional<Launches> fused_dense_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    const Dense<T> dense{gpu, l};
    Launches launches;
    if (direction == Direction::forward) {
      launches.push_back(dense.forward());
      return launches;
    }
  }
  return std::nullopt;
}

template std::optional<Launches> fused_dense_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_dense_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_dense_form(Cuda&, const Layer<__nv_bfloat16>&, Direction);

}  // namespace engine::cuda
