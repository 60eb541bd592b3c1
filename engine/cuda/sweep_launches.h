// The sweeps around library calls as launches: name, shape and declared bytes beside the call.
#pragma once

#include <string>

#include "engine/cost.h"
#include "engine/cuda/context.h"
#include "kernels/kernels.h"

namespace engine::cuda {

// Scratch for the sums of a sweep. Sweeps follow one another in the stream, so they share counters.
inline kernels::Partials sweep_partials(const Cuda& gpu, float* rows) {
  return {rows, gpu.counters.get()};
}

template <class T>
Launch load_operand(const Cuda& gpu, T* f, const OperandView<T>& in) {
  return {"load_operand",
          text_of(in),
          {bytes_of(in) + elements_of(in) * sizeof(T), 0},
          [=, stream = gpu.stream.get()] { kernels::Sweeps<T>::load_operand(f, in, stream); }};
}

// No launch where `dense` is the output itself and neither bias nor statistics are wanted.
template <class T>
Launches store_output(const Cuda& gpu, const SliceView<T>& out, const T* dense, const float* bias,
                      float* partials) {
  const bool in_place = dense == out.y;
  if (in_place && !bias && !out.mean) return {};
  const double copied = in_place && !bias ? 0 : elements_of(out) * sizeof(T);
  const std::string shape = text_of(out) + (in_place ? " in place" : "") +
                            (out.mean ? " statistics" : "") + (bias ? " bias" : "");
  return one_launch("store_output", shape, {bytes_of(out) + copied, 0},
                    [=, sums = sweep_partials(gpu, partials), stream = gpu.stream.get()] {
                      kernels::Sweeps<T>::store_output(out, dense, bias, sums, stream);
                    });
}

template <class T>
Launch load_gradient(const Cuda& gpu, T* dy, const GradientView<T>& gradient) {
  return {
      "load_gradient",
      text_of(gradient),
      {bytes_of(gradient) + elements_of(gradient) * sizeof(T), 0},
      [=, stream = gpu.stream.get()] { kernels::Sweeps<T>::load_gradient(dy, gradient, stream); }};
}

template <class T>
Launch store_gradient(const Cuda& gpu, const GradientSink<T>& sink, const T* df,
                      const OperandView<T>& in, float* partials) {
  Cost cost = store_gradient_cost(sink, in);
  if (sink.gated() && df == sink.grad) cost.bytes -= elements_of(in) * sizeof(T);  // dz lies there
  const char* how = !sink.grad ? " sums" : sink.how == Write::add ? " +=" : " =";
  return {"store_gradient", text_of(in) + how, cost,
          [=, sums = sweep_partials(gpu, partials), stream = gpu.stream.get()] {
            kernels::Sweeps<T>::store_gradient(sink, df, in, sums, stream);
          }};
}

// df: dense (pixels, channels) at every stride-th pixel of the operand, as `out` has them.
template <class T>
Launch add_strided(const Cuda& gpu, const GradientSink<T>& sink, const T* df,
                   const OperandView<T>& in, const SliceView<T>& out, int stride) {
  const double count = double(out.pixels()) * in.channels;
  return {"add_strided",
          fmt::format("{} every {}", text_of(in), stride),
          {3 * count * sizeof(T), 0},
          [=, height = out.height, width = out.width, stream = gpu.stream.get()] {
            kernels::Sweeps<T>::add_strided(sink, df, in, height, width, stride, stream);
          }};
}

// dy: dense (pixels, channels) of `out`.
template <class T>
Launch bias_gradient(const Cuda& gpu, float* dbias, const T* dy, const SliceView<T>& out,
                     float* partials) {
  return {"bias_gradient",
          text_of(out),
          {elements_of(out) * sizeof(T), 0},
          [=, pixels = out.pixels(), channels = out.channels, sums = sweep_partials(gpu, partials),
           stream = gpu.stream.get()] {
            kernels::Sweeps<T>::bias_gradient(dbias, dy, pixels, channels, sums, stream);
          }};
}

}  // namespace engine::cuda
