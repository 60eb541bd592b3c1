// Pointwise convolutions by our own products, fused on both sides. The backward's makes dy and f(x)
// on the way to the operand's gradient and leaves them to cuBLASLt for the weight gradient.
#include "engine/cuda/conv.h"

namespace engine::cuda {

namespace {

template <class T>
double weights(const Layer<T>& l) {
  return double(l.in.channels) * l.out.channels;
}

template <class T>
double flops(const Layer<T>& l) {
  return 2 * weights(l) * l.out.pixels();
}

template <class T>
std::string shape(const Layer<T>& l) {
  return fmt::format("{} to {}/{}", text_of(l.in), l.out.channels, l.out.pitch);
}

template <class T>
Launch pointwise_forward(const Cuda& gpu, const Layer<T>& l) {
  return {"pointwise_forward",
          shape(l),
          {bytes_of(l.in) + weights(l) * sizeof(T) + bytes_of(l.out), flops(l)},
          [out = l.out, in = l.in, weight = l.weight, partials = l.forward_partials,
           stream = gpu.stream.get()] {
            kernels::PointwiseForward<T>::run(out, in, weight, partials, stream);
          }};
}

// Leaves dy and f where their scratch is wanted.
template <class T>
Launch pointwise_dgrad(const Cuda& gpu, const Layer<T>& l, T* dy, T* f) {
  const double left = (dy ? elements_of(l.out) : 0) + (f ? elements_of(l.in) : 0);
  const double moved = bytes_of(l.gradient) + (weights(l) + left) * sizeof(T) +
                       epilogue_bytes(l.in) + bytes_of(l.sink, l.in);
  return {"pointwise_dgrad",
          shape(l) + (l.sink.how == Write::add ? " +=" : " ="),
          {moved, flops(l)},
          [sink = l.sink, dy, f, gradient = l.gradient, in = l.in, weight = l.weight,
           partials = l.backward_partials, stream = gpu.stream.get()] {
            kernels::PointwiseDgrad<T>::run(sink, dy, f, gradient, in, weight, partials, stream);
          }};
}

template <class T>
Launches pointwise_backward(Cuda& gpu, const Layer<T>& l) {
  const auto dy = gradient_source(l, !l.gradient.normed());
  const auto f = operand_source(l, l.in.plain(), l.plan().backward.operand);
  Launches launches;
  launches.push_back(pointwise_dgrad(gpu, l, dy.scratch, f.scratch));
  launches.push_back(matrix_wgrad(gpu, l, f, dy));
  return launches;
}

}  // namespace

template <class T>
std::optional<Launches> fused_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::backward && l.sink.grad) return pointwise_backward(gpu, l);
    if (direction == Direction::forward) {
      Launches launches;
      launches.push_back(pointwise_forward(gpu, l));
      return launches;
    }
  }
  return std::nullopt;
}

template std::optional<Launches> fused_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                      Direction);

}  // namespace engine::cuda
