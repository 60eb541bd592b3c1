// Pointwise convolutions by our own products, fused on both sides. The weight gradient is a fused
// product too, made with the operand's gradient or by itself, or cuBLASLt's, from the dy and f(x)
// that the operand's gradient then leaves.
#include "engine/cuda/conv.h"
#include "kernels/folded_tiles.h"
#include "kernels/joined_tiles.h"
#include "kernels/narrow_tiles.h"
#include "kernels/product.h"

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
Cost forward_cost(const Layer<T>& l) {
  return {bytes_of(l.in) + weights(l) * sizeof(T) + bytes_of(l.out), flops(l)};
}

template <class T>
Launch pointwise_forward(const Cuda& gpu, const Layer<T>& l) {
  return {"pointwise_forward", shape(l), forward_cost(l),
          [out = l.out, in = l.in, weight = l.weight, partials = l.forward_partials,
           stream = gpu.stream.get()] {
            kernels::PointwiseForward<T>::run(out, in, weight, partials, stream);
          }};
}

template <class T>
std::optional<Launches> pointwise_streamed(const Cuda& gpu, const Layer<T>& l) {
  kernels::Enqueue enqueue = kernels::PointwiseStreamed<T>::prepare(
      l.out, l.in, l.weight, sweep_partials(gpu, l.forward_partials));
  if (!enqueue) return std::nullopt;
  return one_launch("pointwise_streamed", shape(l), forward_cost(l),
                    [enqueue = std::move(enqueue), stream = gpu.stream.get()] { enqueue(stream); });
}

// Leaves dy and f where their scratch is wanted.
template <class T>
Launch pointwise_dgrad(const Cuda& gpu, const Layer<T>& l, T* dy, T* f, kernels::Inputs inputs) {
  const double left = (dy ? elements_of(l.out) : 0) + (f ? elements_of(l.in) : 0);
  const double moved = bytes_of(l.gradient) + (weights(l) + left) * sizeof(T) +
                       epilogue_bytes(l.in) + bytes_of(l.sink, l.in);
  return {"pointwise_dgrad",
          shape(l) + (l.sink.how == Write::add ? " +=" : " ="),
          {moved, flops(l)},
          [sink = l.sink, dy, f, gradient = l.gradient, in = l.in, weight = l.weight,
           partials = l.backward_partials, inputs, stream = gpu.stream.get()] {
            kernels::PointwiseDgrad<T>::run(sink, dy, f, gradient, in, weight, partials, inputs,
                                            stream);
          }};
}

template <class T>
Launch pointwise_wgrad(const Cuda& gpu, const Layer<T>& l) {
  const int64_t floats = wgrad_partials(
      wgrad_cut(l.out.pixels(), l.out.channels, l.in.channels, kernels::device_limits()));
  float* partials = scratch<float>(l.program, l.plan().backward.weight, floats, "weight partials");
  return {
      "pointwise_wgrad",
      shape(l),
      {bytes_of(l.gradient) + bytes_of(l.in) + weights(l) * sizeof(float), flops(l)},
      [dweight = l.dweight, gradient = l.gradient, in = l.in, partials, stream = gpu.stream.get()] {
        kernels::PointwiseWgrad<T>::run(dweight, gradient, in, partials, stream);
      }};
}

// Both gradients; the rows of the weight's are written and read.
template <class T>
Launch pointwise_joined(const Cuda& gpu, const Layer<T>& l) {
  const JoinedCut cut =
      joined_cut(l.out.pixels(), l.in.channels, l.out.channels, kernels::device_limits());
  const int64_t floats = joined_rows(cut, l.in.channels, l.out.channels);
  float* rows = scratch<float>(l.program, l.plan().backward.weight, floats, "weight partials");
  const double x = l.in.plain() ? bytes_of(l.in) : epilogue_bytes(l.in);
  const double moved = bytes_of(l.gradient) + weights(l) * sizeof(T) + x +
                       (2. * floats + weights(l)) * sizeof(float) +
                       (l.sink.grad ? bytes_of(l.sink, l.in) : 0);
  return {"pointwise_joined",
          shape(l) + (l.sink.how == Write::add ? " +=" : " ="),
          {moved, 2 * flops(l)},
          [dweight = l.dweight, sink = l.sink, dy = l.gradient, in = l.in, weight = l.weight, rows,
           partials = sweep_partials(gpu, l.backward_partials), stream = gpu.stream.get()] {
            kernels::PointwiseJoined<T>::run(sink, dweight, dy, in, weight, rows, partials, stream);
          }};
}

// Both gradients without the output; the rows of sums are written and read.
template <class T>
std::optional<Launches> pointwise_narrow(const Cuda& gpu, const Layer<T>& l) {
  const FoldedScratch sizes = narrow_scratch(
      narrow_cut(l.out.pixels(), l.in.channels, l.out.channels, kernels::device_limits()),
      l.in.channels, l.out.channels);
  float* floats =
      scratch<float>(l.program, l.plan().backward.weight, sizes.total(), "folded weights and sums");
  const double x = l.in.plain() ? bytes_of(l.in) : epilogue_bytes(l.in);
  const double squares = double(l.in.channels) * l.in.channels * l.out.pixels();
  const double moved = (elements_of(l.out) + 2 * weights(l)) * sizeof(T) + x +
                       (2. * sizes.total() + weights(l)) * sizeof(float) +
                       (l.sink.grad ? bytes_of(l.sink, l.in) : 0);
  kernels::Enqueue enqueue =
      kernels::PointwiseNarrow<T>::prepare(l.sink, l.dweight, l.gradient, l.in, l.weight, floats,
                                           sweep_partials(gpu, l.backward_partials));
  if (!enqueue) return std::nullopt;
  return one_launch("pointwise_narrow", shape(l) + (l.sink.how == Write::add ? " +=" : " ="),
                    {moved, 2 * flops(l) + 6 * squares},
                    [enqueue = std::move(enqueue), stream = gpu.stream.get()] { enqueue(stream); });
}

// The operand's gradient without the output, with what the weight's is made from.
template <class T>
std::optional<Launches> folded_backward(Cuda& gpu, const Layer<T>& l) {
  const int channels = l.in.channels, outs = l.out.channels;
  const FoldedScratch sizes = folded_scratch(
      folded_cut(l.out.pixels(), channels, outs, kernels::device_limits()), channels, outs);
  float* floats =
      scratch<float>(l.program, l.plan().backward.weight, sizes.total(), "folded weights and sums");
  float* const sums = floats + sizes.before_sums();
  const auto f = operand_source(l, l.in.plain(), l.plan().backward.operand);
  const Source<T> g{l.gradient.grad, l.gradient.pitch, nullptr};
  kernels::Enqueue enqueue =
      kernels::PointwiseFolded<T>::prepare(l.sink, f.scratch, l.gradient, l.in, l.weight, floats,
                                           sweep_partials(gpu, l.backward_partials));
  if (!enqueue) return std::nullopt;
  const double squares = double(channels) * channels * l.out.pixels();
  const double left = f.scratch ? elements_of(l.in) : 0;
  const double moved = (elements_of(l.out) + 3 * weights(l) + left) * sizeof(T) + bytes_of(l.in) +
                       2. * sizes.rows * sizeof(float) + bytes_of(l.sink, l.in);
  Launches launches =
      one_launch("pointwise_folded", shape(l) + (l.sink.how == Write::add ? " +=" : " ="),
                 {moved, flops(l) + 4 * squares},
                 [enqueue = std::move(enqueue), stream = gpu.stream.get()] { enqueue(stream); });
  launches.push_back(matrix_wgrad(gpu, l, f, g, sums));
  launches.push_back(matrix_squares(gpu, l, f, sums + int64_t{outs} * channels));
  launches.push_back({"finish_weight",
                      fmt::format("{}x{}", outs, channels),
                      {weights(l) * (sizeof(T) + 2 * sizeof(float)), 2 * weights(l) * channels},
                      [dweight = l.dweight, dy = l.gradient, weight = l.weight, channels, sizes,
                       floats, stream = gpu.stream.get()] {
                        kernels::PointwiseFolded<T>::finish(dweight, dy, weight, channels, sizes,
                                                            floats, stream);
                      }});
  return launches;
}

// Both read the same, so the second need not wait for the first.
template <class T>
Launches fused_backward(const Cuda& gpu, const Layer<T>& l) {
  Launches launches;
  launches.push_back(pointwise_wgrad(gpu, l));
  if (l.sink.grad)
    launches.push_back(pointwise_dgrad<T>(gpu, l, nullptr, nullptr, kernels::Inputs::settled));
  return launches;
}

template <class T>
Launches mixed_backward(Cuda& gpu, const Layer<T>& l) {
  const auto dy = gradient_source(l, !l.gradient.normed());
  const auto f = operand_source(l, l.in.plain(), l.plan().backward.operand);
  Launches launches;
  launches.push_back(pointwise_dgrad(gpu, l, dy.scratch, f.scratch, kernels::Inputs::fresh));
  launches.push_back(matrix_wgrad(gpu, l, f, dy, l.dweight));
  return launches;
}

}  // namespace

template <class T>
std::optional<Launches> fused_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::backward) return fused_backward(gpu, l);
    Launches launches;
    launches.push_back(pointwise_forward(gpu, l));
    return launches;
  }
  return std::nullopt;
}

template <class T>
std::optional<Launches> mixed_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::backward && l.sink.grad) return mixed_backward(gpu, l);
  }
  return std::nullopt;
}

template <class T>
std::optional<Launches> streamed_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::forward) return pointwise_streamed(gpu, l);
  }
  return std::nullopt;
}

template <class T>
std::optional<Launches> narrow_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::backward) return pointwise_narrow(gpu, l);
  }
  return std::nullopt;
}

template <class T>
std::optional<Launches> folded_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::backward && l.sink.grad) return folded_backward(gpu, l);
  }
  return std::nullopt;
}

template <class T>
std::optional<Launches> joined_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  if constexpr (sizeof(T) == 2) {
    if (direction == Direction::forward) return std::nullopt;
    Launches launches;
    launches.push_back(pointwise_joined(gpu, l));
    return launches;
  }
  return std::nullopt;
}

template std::optional<Launches> fused_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> fused_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> fused_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                      Direction);
template std::optional<Launches> streamed_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> streamed_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> streamed_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                         Direction);
template std::optional<Launches> narrow_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> narrow_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> narrow_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                       Direction);
template std::optional<Launches> folded_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> folded_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> folded_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                       Direction);
template std::optional<Launches> joined_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> joined_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> joined_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                       Direction);
template std::optional<Launches> mixed_pointwise_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> mixed_pointwise_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> mixed_pointwise_form(Cuda&, const Layer<__nv_bfloat16>&,
                                                      Direction);

}  // namespace engine::cuda
