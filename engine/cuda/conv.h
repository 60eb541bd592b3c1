// What the forms of a convolution on CUDA share: the views of one layer, and memory that a library
// reads. One file per form: conv_matrix.cpp, conv_library.cpp, conv_fused.cpp (depthwise),
// conv_pointwise.cpp, conv_dense.cpp, conv_stem.cpp.
#pragma once

#include <optional>

#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "engine/cuda/sweep_launches.h"
#include "engine/forms.h"

namespace engine::cuda {

// What both directions of a convolution touch.
template <class T>
struct Layer {
  Layer(const Program& program, int index, const Conv& conv)
      : program(program),
        index(index),
        conv(conv),
        in(program.operand<T>(conv.in)),
        out(program.output<T>(conv.out)),
        weight(program.weight<T>(conv.weight)),
        bias(conv.bias == kNone ? nullptr : program.master<float>(conv.bias)),
        forward_partials(program.scratch<float>(plan().forward.partials)) {
    if (!program.training()) return;
    gradient = program.gradient<T>(conv.out);
    sink = program.sink<T>(index, 0, conv.in);
    dweight = program.dparameter<float>(conv.weight);
    dbias = conv.bias == kNone ? nullptr : program.dparameter<float>(conv.bias);
    backward_partials = program.scratch<float>(plan().backward.partials);
  }

  const StepPlan& plan() const { return program.plan.steps[index]; }
  int64_t in_elements() const { return in.pixels() * in.channels; }
  int64_t out_elements() const { return out.pixels() * out.channels; }

  const Program& program;
  int index;
  const Conv& conv;
  OperandView<T> in;
  SliceView<T> out;
  const T* weight;
  const float* bias;  // (C',), or null
  float* forward_partials;
  // From here on in training only: the gradient of `out`, and where that of `in` goes.
  GradientView<T> gradient{};
  GradientSink<T> sink{};
  float *dweight = nullptr, *dbias = nullptr;
  float* backward_partials = nullptr;
};

// Memory that a library reads: what is there already, or scratch that a sweep fills first.
template <class T>
struct Source {
  const T* data;
  int pitch;   // elements from pixel to pixel
  T* scratch;  // null: the data are there already
};

template <class T>
Source<T> operand_source(const Layer<T>& l, bool in_place, const Range& range) {
  if (in_place) return {l.in.x, l.in.pitch, nullptr};
  T* f = scratch<T>(l.program, range, l.in_elements(), "f(x)");
  return {f, l.in.channels, f};
}

template <class T>
Source<T> gradient_source(const Layer<T>& l, bool in_place) {
  if (in_place) return {l.gradient.grad, l.gradient.pitch, nullptr};
  T* dy = scratch<T>(l.program, l.plan().backward.output, l.out_elements(), "dy");
  return {dy, l.gradient.channels, dy};
}

inline void append(Launches& launches, Launches more) {
  for (Launch& launch : more) launches.push_back(std::move(launch));
}

// The backward of every form around a library: dy where it must be made, dgrad, f where it must be
// made (df lay there until then), wgrad, and the gradient of the bias.
template <class T>
Launches library_backward(const Cuda& gpu, const Layer<T>& l, const Source<T>& dy,
                          const Source<T>& f, Launches dgrad, Launches wgrad) {
  Launches launches;
  if (dy.scratch) launches.push_back(load_gradient(gpu, dy.scratch, l.gradient));
  append(launches, std::move(dgrad));
  if (f.scratch) launches.push_back(load_operand(gpu, f.scratch, l.in));
  append(launches, std::move(wgrad));
  if (l.dbias) launches.push_back(bias_gradient(gpu, l.dbias, dy.data, l.out, l.backward_partials));
  return launches;
}

// to = dyᵀ · f (C', C) by cuBLASLt, and fᵀ · f (C, C).
template <class T>
Launch matrix_wgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& f, const Source<T>& dy,
                    float* to);
template <class T>
Launch matrix_squares(Cuda& gpu, const Layer<T>& l, const Source<T>& f, float* to);
// The gradient of the pixels that a convolution of one pixel reaches, dense (pixels of the output,
// channels), at `df`.
template <class T>
Launch pixels_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy, T* df);

// One direction in one form; nothing where it has none: where a library has no algorithm, or where
// nobody wants the gradient that a fused form is built around.
template <class T>
std::optional<Launches> matrix_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> library_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> banded_depthwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> fused_depthwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> fused_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> streamed_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> narrow_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> folded_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> joined_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> mixed_pointwise_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> fused_dense_form(Cuda& gpu, const Layer<T>& l, Direction direction);
template <class T>
std::optional<Launches> fused_stem_form(Cuda& gpu, const Layer<T>& l, Direction direction);

}  // namespace engine::cuda
