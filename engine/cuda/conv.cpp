// Convolutions: the library form (operand made dense, library call, sweep) for every one of them,
// without the copies where the views allow; and the fused depthwise kernels.
#include <optional>
#include <string>

#include "engine/cuda/cublas.h"
#include "engine/cuda/cudnn.h"
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

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
  GradientView<T> gradient{};  // of out; from here on: in training
  GradientSink<T> sink{};      // of in
  float *dweight = nullptr, *dbias = nullptr;
  float* backward_partials = nullptr;
};

// Memory that a library reads: what is there already (`scratch` null), or what a sweep puts there.
template <class T>
struct Source {
  const T* data;
  int pitch;  // elements from pixel to pixel
  T* scratch;
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

// ---------------------------------------------------------------- pointwise and linear: a product

// (rows, k) · (k, outs); of a linear layer a row is an image, else a pixel.
template <class T>
struct MatrixForm {
  explicit MatrixForm(const Layer<T>& l)
      : rows(l.out.pixels()),
        k(l.in_elements() / rows),
        outs(l.out.channels),
        by_pixel(k == l.in.channels),
        precision(l.program.precision()) {}

  int64_t rows, k, outs;
  bool by_pixel;  // else a row spans pixels, which must then be dense
  Precision precision;

  int64_t row_pitch(int pixel_pitch) const { return by_pixel ? pixel_pitch : k; }
  bool in_place(const OperandView<T>& in) const { return in.plain() && (by_pixel || in.dense()); }

  static Matrix matrix(const T* data, int64_t rows, int64_t columns, int64_t pitch,
                       bool transposed = false) {
    return {data, Storage<T>::matrix, rows, columns, pitch, transposed};
  }
  Matrix f(const Source<T>& s) const { return matrix(s.data, k, rows, row_pitch(s.pitch)); }
  Matrix dy(const Source<T>& s, bool transposed) const {
    return matrix(s.data, outs, rows, s.pitch, transposed);
  }
  Matrix weight(const T* w, bool transposed) const { return matrix(w, k, outs, k, transposed); }

  // yᵀ (outs, rows) = W · fᵀ
  Product y(const Layer<T>& l, const Source<T>& f) const {
    return {weight(l.weight, true), this->f(f), matrix(l.out.y, outs, rows, l.out.pitch), 0,
            precision};
  }
  // dfᵀ (k, rows) = Wᵀ · dyᵀ
  Product df(const Layer<T>& l, const Source<T>& dy, T* df, int pixel_pitch, bool add) const {
    return {weight(l.weight, false), this->dy(dy, false),
            matrix(df, k, rows, row_pitch(pixel_pitch)), add ? 1.f : 0.f, precision};
  }
  // dWᵀ (k, outs) = fᵀ · dy, in float whatever the storage type
  Product dweight(const Layer<T>& l, const Source<T>& f, const Source<T>& dy) const {
    return {this->f(f), this->dy(dy, true), {l.dweight, CUDA_R_32F, k, outs, k}, 0, precision};
  }
};

template <class T>
std::function<void()> matrix_forward(Cuda& gpu, const Layer<T>& l) {
  const MatrixForm<T> form(l);
  const auto f = operand_source(l, form.in_place(l.in), l.plan().forward.operand);
  const auto product = plan_product(gpu, form.y(l, f), workspace(l.program));
  return [l, f, product, stream = gpu.stream.get()] {
    if (f.scratch) kernels::load_operand(f.scratch, l.in, stream);
    product();
    kernels::store_output(l.out, static_cast<const T*>(l.out.y), l.bias, l.forward_partials,
                          stream);
  };
}

// df goes where the gradient of a plain operand lives, else through scratch and the epilogue.
template <class T>
std::function<void()> matrix_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy) {
  if (!l.sink.grad) return [] {};
  const MatrixForm<T> form(l);
  if (form.in_place(l.in)) {
    const bool add = l.sink.how == Write::add;
    return plan_product(gpu, form.df(l, dy, l.sink.grad, l.sink.pitch, add), workspace(l.program));
  }
  T* df = scratch<T>(l.program, l.plan().backward.operand, l.in_elements(), "df");
  const auto product =
      plan_product(gpu, form.df(l, dy, df, l.in.channels, false), workspace(l.program));
  return [l, df, product, stream = gpu.stream.get()] {
    product();
    kernels::store_gradient(l.sink, static_cast<const T*>(df), l.in, l.backward_partials, stream);
  };
}

template <class T>
std::function<void()> matrix_backward(Cuda& gpu, const Layer<T>& l) {
  const MatrixForm<T> form(l);
  // The sum over a bias's gradient wants it dense.
  const bool plain = !l.gradient.normed() && !l.gradient.gated();
  const auto dy = gradient_source(l, l.gradient.dense() || (plain && !l.dbias));
  const auto dgrad = matrix_dgrad(gpu, l, dy);
  const auto f = operand_source(l, form.in_place(l.in), l.plan().backward.operand);
  const auto wgrad = plan_product(gpu, form.dweight(l, f, dy), workspace(l.program));
  return [l, dy, f, dgrad, wgrad, stream = gpu.stream.get()] {
    if (dy.scratch) kernels::load_gradient(dy.scratch, l.gradient, stream);
    dgrad();
    if (f.scratch) kernels::load_operand(f.scratch, l.in, stream);  // df lay there until here
    wgrad();
    if (l.dbias)
      kernels::bias_gradient(l.dbias, dy.data, l.out.pixels(), l.out.channels, l.backward_partials,
                             stream);
  };
}

// ---------------------------------------------------------------- every other one: cuDNN

template <class T>
ConvolutionShape shape_of(const Layer<T>& l) {
  const Window& w = l.conv.window;
  return {.batch = l.in.batch,
          .height = l.in.height,
          .width = l.in.width,
          .channels = l.in.channels,
          .out_height = l.out.height,
          .out_width = l.out.width,
          .out_channels = l.out.channels,
          .kernel_h = w.kernel_h,
          .kernel_w = w.kernel_w,
          .stride = w.stride,
          .padding = w.padding,
          .groups = l.conv.depthwise ? l.in.channels : 1,
          .type = Storage<T>::tensor,
          .precision = l.program.precision()};
}

// Empty functions, here and below: cuDNN has no algorithm for it.
template <class T>
std::function<void()> library_forward(Cuda& gpu, const Layer<T>& l) {
  const auto f = operand_source(l, l.in.dense(), l.plan().forward.operand);
  T* y = l.out.dense()
             ? l.out.y
             : scratch<T>(l.program, l.plan().forward.output, l.out_elements(), "dense y");
  const auto convolve = plan_forward(gpu, y, f.data, l.weight, shape_of(l), workspace(l.program));
  if (!convolve) return {};
  return [l, f, y, convolve, stream = gpu.stream.get()] {
    if (f.scratch) kernels::load_operand(f.scratch, l.in, stream);
    convolve();
    kernels::store_output(l.out, static_cast<const T*>(y), l.bias, l.forward_partials, stream);
  };
}

template <class T>
std::function<void()> library_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy) {
  if (!l.sink.grad) return [] {};
  const bool direct = l.in.dense() && l.sink.how == Write::assign;
  T* df = direct ? l.sink.grad
                 : scratch<T>(l.program, l.plan().backward.operand, l.in_elements(), "df");
  const auto convolve = plan_dgrad(gpu, df, l.weight, dy.data, shape_of(l), workspace(l.program));
  if (!convolve || direct) return convolve;
  return [l, df, convolve, stream = gpu.stream.get()] {
    convolve();
    kernels::store_gradient(l.sink, static_cast<const T*>(df), l.in, l.backward_partials, stream);
  };
}

// cuDNN leaves a weight gradient in the storage type; ours is float.
template <class T>
std::function<void()> library_wgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& f,
                                    const Source<T>& dy) {
  const auto plan = [&](void* dw) {
    return plan_wgrad(gpu, dw, f.data, dy.data, shape_of(l), workspace(l.program));
  };
  if constexpr (std::is_same_v<T, float>) {
    return plan(l.dweight);
  } else {
    const int64_t count = elements(l.program.graph.parameters[l.conv.weight].memory);
    T* dw = scratch<T>(l.program, l.plan().backward.weight, count, "dweight");
    const auto convolve = plan(dw);
    if (!convolve) return {};
    return [l, dw, count, convolve, stream = gpu.stream.get()] {
      convolve();
      kernels::cast_back(l.dweight, static_cast<const T*>(dw), count, stream);
    };
  }
}

template <class T>
std::function<void()> library_backward(Cuda& gpu, const Layer<T>& l) {
  const auto dy = gradient_source(l, l.gradient.dense());
  const auto dgrad = library_dgrad(gpu, l, dy);
  const auto f = operand_source(l, l.in.dense(), l.plan().backward.operand);
  const auto wgrad = library_wgrad(gpu, l, f, dy);
  if (!dgrad || !wgrad) return {};
  return [l, dy, f, dgrad, wgrad, stream = gpu.stream.get()] {
    if (dy.scratch) kernels::load_gradient(dy.scratch, l.gradient, stream);
    dgrad();
    if (f.scratch) kernels::load_operand(f.scratch, l.in, stream);  // df lay there until here
    wgrad();
    if (l.dbias)
      kernels::bias_gradient(l.dbias, dy.data, l.out.pixels(), l.out.channels, l.backward_partials,
                             stream);
  };
}

template <class T>
std::optional<StepExec> library_form(Cuda& gpu, const Layer<T>& l) {
  StepExec exec{.forward = library_forward(gpu, l), .backward = {}};
  if (!exec.forward || !l.program.training())
    return exec.forward ? std::optional(exec) : std::nullopt;
  exec.backward = library_backward(gpu, l);
  return exec.backward ? std::optional(exec) : std::nullopt;
}

// ---------------------------------------------------------------- depthwise: fused or library

template <class T>
StepExec fused_form(Cuda& gpu, const Layer<T>& l) {
  const Window& w = l.conv.window;
  require(!l.bias && w.kernel_h == w.kernel_w, Failure::internal,
          "the fused depthwise convolution is square and has no bias");
  const DepthwiseShape shape{w.kernel_h, w.stride, w.padding};
  StepExec exec{.forward =
                    [l, shape, stream = gpu.stream.get()] {
                      kernels::depthwise_forward(l.out, l.in, l.weight, shape, l.forward_partials,
                                                 stream);
                    },
                .backward = {}};
  if (!l.program.training()) return exec;
  const int64_t floats =
      depthwise_weight_partials(l.in.batch, l.in.height, l.in.width, l.in.channels, shape);
  float* weight_partials =
      scratch<float>(l.program, l.plan().backward.weight, floats, "weight partials");
  exec.backward = [l, shape, weight_partials, stream = gpu.stream.get()] {
    kernels::depthwise_backward(l.sink, l.dweight, l.gradient, l.in, l.weight, shape,
                                l.backward_partials, weight_partials, stream);
  };
  return exec;
}

template <class T>
std::string form_key(const Layer<T>& l) {
  const ConvolutionShape s = shape_of(l);
  return fmt::format("form {} depthwise {}x{}x{}x{} kernel {} stride {} {}", name_of(s.precision),
                     s.batch, s.height, s.width, s.channels, s.kernel_h, s.stride,
                     l.program.training() ? "training" : "evaluation");
}

// The faster of the two, forward and backward together.
template <class T>
StepExec faster_form(Cuda& gpu, const Layer<T>& l) {
  const StepExec fused = fused_form(gpu, l);
  const std::string key = form_key(l);
  const std::string* known = gpu.algorithms.find(key);
  if (!gpu.algorithms.timed() || (known && *known == name_of(ConvForm::fused))) return fused;
  const std::optional<StepExec> library = library_form(gpu, l);
  if (!library) return fused;
  const StepExec* forms[] = {&fused, &*library};
  const std::vector<std::string> names{std::string(name_of(ConvForm::fused)),
                                       std::string(name_of(ConvForm::library))};
  const size_t chosen = gpu.algorithms.choose(key, names, [&](size_t i) {
    forms[i]->forward();
    if (forms[i]->backward) forms[i]->backward();
    return cudaPeekAtLastError() == cudaSuccess;
  });
  require(chosen < names.size(), Failure::internal, "neither form runs");
  return *forms[chosen];
}

template <class T>
StepExec prepare_layer(Cuda& gpu, const Layer<T>& l) {
  const Window& w = l.conv.window;
  const bool linear =
      !l.conv.depthwise && w.padding == 0 && w.kernel_h == l.in.height && w.kernel_w == l.in.width;
  if (l.conv.pointwise() || linear) {
    StepExec exec{.forward = matrix_forward(gpu, l), .backward = {}};
    if (l.program.training()) exec.backward = matrix_backward(gpu, l);
    return exec;
  }
  const ConvForm form = l.program.plan.options.conv;
  if (l.conv.depthwise && form != ConvForm::library)
    return form == ConvForm::fused ? fused_form(gpu, l) : faster_form(gpu, l);
  const std::optional<StepExec> library = library_form(gpu, l);
  require(library.has_value(), Failure::internal,
          "cuDNN has no algorithm for {}x{} stride {}, {} to {} channels, in {} MiB of workspace",
          w.kernel_h, w.kernel_w, w.stride, l.in.channels, l.out.channels,
          workspace(l.program).bytes >> 20);
  return *library;
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Conv& conv) {
  return visit_storage(program.precision(), [&]<class T>() {
    return prepare_layer(gpu, Layer<T>(program, index, conv));
  });
}

}  // namespace engine::cuda
