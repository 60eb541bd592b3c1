// Depthwise convolutions by our own kernels, fused on both sides.
#include "engine/cuda/conv.h"

namespace engine::cuda {

namespace {

template <class T>
struct Depthwise {
  Depthwise(const Cuda& gpu, const Layer<T>& l)
      : gpu(gpu),
        l(l),
        taps(double(l.conv.window.kernel_h) * l.conv.window.kernel_w),
        shape(fmt::format("{} {}", text_of(l.in), text_of(l.conv.window))) {}

  const Cuda& gpu;
  const Layer<T>& l;
  double taps;
  std::string shape;

  double weights() const { return taps * l.in.channels; }
  double flops() const { return 2 * taps * elements_of(l.out); }

  Launch forward() const {
    return {"depthwise_forward",
            shape,
            {bytes_of(l.in) + weights() * sizeof(T) + bytes_of(l.out), flops()},
            [out = l.out, in = l.in, weight = l.weight, window = l.conv.window,
             partials = l.forward_partials, stream = gpu.stream.get()] {
              kernels::DepthwiseForward<T>::run(out, in, weight, window, partials, stream);
            }};
  }

  Launch backward() const {
    const int64_t floats =
        depthwise_weight_partials(l.in.batch, l.in.height, l.in.width, l.in.channels, l.conv.window,
                                  kernels::device_limits());
    float* weight_partials =
        scratch<float>(l.program, l.plan().backward.weight, floats, "weight partials");
    const double moved = bytes_of(l.gradient) + bytes_of(l.in) + bytes_of(l.sink, l.in) +
                         weights() * (sizeof(T) + sizeof(float));
    return {"depthwise_backward",
            shape,
            {moved, 2 * flops()},
            [sink = l.sink, dweight = l.dweight, dy = l.gradient, in = l.in, weight = l.weight,
             window = l.conv.window, partials = l.backward_partials, weight_partials,
             stream = gpu.stream.get()] {
              kernels::DepthwiseBackward<T>::run(sink, dweight, dy, in, weight, window, partials,
                                                 weight_partials, stream);
            }};
  }
};

}  // namespace

template <class T>
std::optional<Launches> fused_depthwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  const Depthwise<T> depthwise(gpu, l);
  Launches launches;
  launches.push_back(direction == Direction::forward ? depthwise.forward() : depthwise.backward());
  return launches;
}

template std::optional<Launches> fused_depthwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_depthwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_depthwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                      Direction);

}  // namespace engine::cuda
