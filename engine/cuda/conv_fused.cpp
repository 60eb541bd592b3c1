// Depthwise convolutions by our own kernels, fused on both sides: for anything, and on the matrix
// units.
#include "engine/cuda/conv.h"
#include "kernels/banded_tiles.h"

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

  Cost forward_cost() const {
    return {bytes_of(l.in) + weights() * sizeof(T) + bytes_of(l.out), flops()};
  }
  Cost backward_cost() const {
    const double moved = bytes_of(l.gradient) + bytes_of(l.in) + bytes_of(l.sink, l.in) +
                         weights() * (sizeof(T) + sizeof(float));
    return {moved, 2 * flops()};
  }

  Launch forward() const {
    return {"depthwise_forward", shape, forward_cost(),
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
    return {"depthwise_backward", shape, backward_cost(),
            [sink = l.sink, dweight = l.dweight, dy = l.gradient, in = l.in, weight = l.weight,
             window = l.conv.window, partials = l.backward_partials, weight_partials,
             stream = gpu.stream.get()] {
              kernels::DepthwiseBackward<T>::run(sink, dweight, dy, in, weight, window, partials,
                                                 weight_partials, stream);
            }};
  }

  std::optional<Launches> banded_forward() const {
    const SliceView<T>& out = l.out;
    const BandedTile* tile = banded_forward_tile(l.conv.window, l.in.act, out.height, out.width);
    if (!tile) return std::nullopt;
    const int64_t floats = banded_partials(*tile, kBandedStatistics, out.batch, out.height,
                                           out.width, out.channels, kernels::device_limits());
    float* rows = scratch<float>(l.program, l.plan().forward.partials, floats, "partial sums");
    return launches("depthwise_forward banded", forward_cost(),
                    kernels::BandedForward<T>::prepare(out, l.in, l.weight, l.conv.window,
                                                       sweep_partials(gpu, rows)));
  }

  std::optional<Launches> banded_backward() const {
    const OperandView<T>& in = l.in;
    const BandedTile* tile = banded_backward_tile(l.conv.window, in.act, in.height, in.width);
    if (!tile) return std::nullopt;
    const int64_t floats = banded_partials(*tile, banded_sums(tile->kernel), in.batch, in.height,
                                           in.width, in.channels, kernels::device_limits());
    float* rows = scratch<float>(l.program, l.plan().backward.weight, floats, "partial sums");
    return launches("depthwise_backward banded", backward_cost(),
                    kernels::BandedBackward<T>::prepare(l.sink, l.dweight, l.gradient, in, l.weight,
                                                        l.conv.window, sweep_partials(gpu, rows)));
  }

 private:
  std::optional<Launches> launches(std::string_view name, const Cost& cost,
                                   kernels::Enqueue enqueue) const {
    if (!enqueue) return std::nullopt;
    return one_launch(name, shape, cost, [enqueue = std::move(enqueue), stream = gpu.stream.get()] {
      enqueue(stream);
    });
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

template <class T>
std::optional<Launches> banded_depthwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    const Depthwise<T> depthwise(gpu, l);
    return direction == Direction::forward ? depthwise.banded_forward()
                                           : depthwise.banded_backward();
  }
  return std::nullopt;
}

template std::optional<Launches> fused_depthwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_depthwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_depthwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                      Direction);
template std::optional<Launches> banded_depthwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> banded_depthwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> banded_depthwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                       Direction);

}  // namespace engine::cuda
