// Convolutions of any kind by cuDNN, on dense tensors: the operand is made dense where it is not,
// and a sweep does the epilogue.
#include <type_traits>

#include "engine/cuda/conv.h"
#include "engine/cuda/cudnn.h"

namespace engine::cuda {

namespace {

template <class T>
ConvolutionShape shape_of(const Layer<T>& l) {
  return {.batch = l.in.batch,
          .height = l.in.height,
          .width = l.in.width,
          .channels = l.in.channels,
          .out_height = l.out.height,
          .out_width = l.out.width,
          .out_channels = l.out.channels,
          .window = l.conv.window,
          .groups = l.conv.depthwise() ? l.in.channels : 1,
          .type = Storage<T>::tensor,
          .precision = l.program.precision()};
}

template <class T>
std::optional<Launches> library_forward(Cuda& gpu, const Layer<T>& l) {
  const auto f = operand_source(l, l.in.dense(), l.plan().forward.operand);
  T* y = l.out.dense()
             ? l.out.y
             : scratch<T>(l.program, l.plan().forward.output, l.out_elements(), "dense y");
  auto convolve = plan_forward(gpu, y, f.data, l.weight, shape_of(l), workspace(l.program));
  if (!convolve) return std::nullopt;
  Launches launches;
  if (f.scratch) launches.push_back(load_operand(gpu, f.scratch, l.in));
  launches.push_back(std::move(*convolve));
  append(launches, store_output<T>(gpu, l.out, y, l.bias, l.forward_partials));
  return launches;
}

// A pointwise convolution with a stride reaches one pixel of several: a product makes their
// gradients, which are added to those that are there.
template <class T>
bool reaches_some(const Layer<T>& l) {
  const Window& w = l.conv.window;
  return !l.conv.depthwise() && w == Window{1, 1, w.stride, 0} && w.stride > 1 && l.in.plain() &&
         l.sink.how == Write::add;
}
template <class T>
Launches strided_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy) {
  T* const df = scratch<T>(l.program, l.plan().backward.operand, l.in_elements(), "df");
  Launches launches;
  launches.push_back(pixels_dgrad(gpu, l, dy, df));
  launches.push_back(add_strided(gpu, l.sink, df, l.in, l.out, l.conv.window.stride));
  return launches;
}

template <class T>
std::optional<Launches> library_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy) {
  if (!l.sink.grad) return Launches{};
  if (reaches_some(l)) return strided_dgrad(gpu, l, dy);
  const bool direct = l.in.dense() && l.sink.how == Write::assign;
  T* df = direct ? l.sink.grad
                 : scratch<T>(l.program, l.plan().backward.operand, l.in_elements(), "df");
  auto convolve = plan_dgrad(gpu, df, l.weight, dy.data, shape_of(l), workspace(l.program));
  if (!convolve) return std::nullopt;
  Launches launches;
  launches.push_back(std::move(*convolve));
  if (!direct) launches.push_back(store_gradient<T>(gpu, l.sink, df, l.in, l.backward_partials));
  return launches;
}

// cuDNN leaves a weight gradient in the storage type; ours is float.
template <class T>
std::optional<Launches> library_wgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& f,
                                      const Source<T>& dy) {
  constexpr bool direct = std::is_same_v<T, float>;
  const int64_t count = elements(l.program.graph.parameters[l.conv.weight].memory);
  void* dw = l.dweight;
  if constexpr (!direct) dw = scratch<T>(l.program, l.plan().backward.weight, count, "dweight");
  auto convolve = plan_wgrad(gpu, dw, f.data, dy.data, shape_of(l), workspace(l.program));
  if (!convolve) return std::nullopt;
  Launches launches;
  launches.push_back(std::move(*convolve));
  if constexpr (!direct)
    launches.push_back(
        {"cast_back",
         fmt::format("{}", count),
         {double(count) * (sizeof(T) + sizeof(float)), 0},
         [to = l.dweight, from = static_cast<const T*>(dw), count, stream = gpu.stream.get()] {
           kernels::Casts<T>::to_float(to, from, count, stream);
         }});
  return launches;
}

template <class T>
std::optional<Launches> library_backward(Cuda& gpu, const Layer<T>& l) {
  const auto dy = gradient_source(l, l.gradient.dense());
  auto dgrad = library_dgrad(gpu, l, dy);
  const auto f = operand_source(l, l.in.dense(), l.plan().backward.operand);
  auto wgrad = library_wgrad(gpu, l, f, dy);
  if (!dgrad || !wgrad) return std::nullopt;
  return library_backward(gpu, l, dy, f, std::move(*dgrad), std::move(*wgrad));
}

}  // namespace

template <class T>
std::optional<Launches> library_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  return direction == Direction::forward ? library_forward(gpu, l) : library_backward(gpu, l);
}

template std::optional<Launches> library_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> library_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> library_form(Cuda&, const Layer<__nv_bfloat16>&, Direction);

}  // namespace engine::cuda
