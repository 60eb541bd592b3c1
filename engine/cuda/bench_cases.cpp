#include "engine/cuda/bench_cases.h"

#include <algorithm>
#include <type_traits>

#include "engine/cuda/cublas.h"
#include "engine/cuda/cudnn.h"
#include "engine/cuda/storage.h"
#include "engine/optimizer.h"

namespace engine::cuda {

namespace {

// ---------------------------------------------------------------- what views move, in bytes

constexpr double kReal = sizeof(float);

template <class View>
double elements_of(const View& v) {
  return double(v.pixels()) * v.channels;
}

template <class T>
double bytes_of(const OperandView<T>& v) {
  return elements_of(v) * sizeof(T) + (v.norm.present() ? 4 * kReal * v.channels : 0) +
         (v.gate ? kReal * v.batch * v.channels : 0);
}

template <class T>
double bytes_of(const SliceView<T>& v) {
  return elements_of(v) * sizeof(T) + (v.mean ? 2 * kReal * v.channels : 0);
}

template <class T>
double bytes_of(const GradientView<T>& v) {
  const bool both = v.normed() || v.gated();  // G and x
  return elements_of(v) * sizeof(T) * (both ? 2 : 1) + (both ? 4 * kReal * v.channels : 0) +
         (v.gated() ? 2 * kReal * v.batch * v.channels : 0);
}

// The sink of an operand: its gradient, and the vectors of sums.
template <class T>
double bytes_of(const GradientSink<T>& sink, const OperandView<T>& in) {
  const double sums = sink.gated() ? 3. * in.batch : sink.k0 ? 8 : 0;
  return elements_of(in) * sizeof(T) * (sink.how == Write::add ? 2 : 1) +
         kReal * sums * in.channels;
}

// What the epilogue of a backward reads of the operand.
template <class T>
double epilogue_bytes(const OperandView<T>& in) {
  return in.norm.present() || in.act != Activation::none || in.gate ? bytes_of(in) : 0;
}

// ---------------------------------------------------------------- how shapes are written

template <class View>
std::string text_of(const View& v) {
  return fmt::format("{}x{}x{}x{}/{}", v.batch, v.height, v.width, v.channels, v.pitch);
}

template <class T>
std::string text_of_operand(const OperandView<T>& v) {
  std::string text = text_of<OperandView<T>>(v);
  if (v.norm.present()) text += " norm";
  if (v.act == Activation::relu) text += " relu";
  if (v.act == Activation::relu6) text += " relu6";
  if (v.act == Activation::silu) text += " silu";
  if (v.gate) text += " gate";
  if (v.random.present()) text += " random";
  return text;
}

std::string text_of(const ConvolutionShape& s) {
  return fmt::format("{}x{}x{}x{} to {}x{}x{} k{}x{} s{} p{} g{}", s.batch, s.height, s.width,
                     s.channels, s.out_height, s.out_width, s.out_channels, s.kernel_h, s.kernel_w,
                     s.stride, s.padding, s.groups);
}

// ---------------------------------------------------------------- collecting

class Cases {
 public:
  // `make` prepares the launch; called for the first of its kind only.
  template <class Make>
  void add(const std::string& kernel, const std::string& shape, const Cost& cost, Make&& make) {
    const auto known = std::find_if(cases_.begin(), cases_.end(), [&](const KernelCase& c) {
      return c.kernel == kernel && c.shape == shape;
    });
    if (known != cases_.end()) {
      ++known->count;
      return;
    }
    std::function<void()> run = make();
    require(static_cast<bool>(run), Failure::internal, "{} {}: no algorithm", kernel, shape);
    cases_.push_back({kernel, shape, 1, cost, std::move(run)});
  }

  std::vector<KernelCase> take() { return std::move(cases_); }

 private:
  std::vector<KernelCase> cases_;
};

// ---------------------------------------------------------------- the launches of each step

// As conv.cpp and steps.cpp launch them: the same conditions, views and scratch.
template <class T>
class StepCases {
 public:
  StepCases(Cuda& gpu, const Program& program, Cases& cases)
      : gpu_(gpu), program_(program), cases_(cases) {}

  void add(int index) {
    plan_ = &program_.plan.steps[index];
    index_ = index;
    std::visit([&](const auto& step) { add_step(step); }, program_.graph.steps[index]);
  }

  void add_update(const NormEntries& norms);
  void add_images();

 private:
  cudaStream_t stream() const { return gpu_.stream.get(); }
  T* place(const Range& range) const { return program_.scratch<T>(range); }
  float* sums(const ScratchPlan& scratch) const {
    return program_.scratch<float>(scratch.partials);
  }

  // ---- sweeps

  void add_load(const OperandView<T>& in, const Range& range) {
    cases_.add(
        "load_operand", text_of_operand(in), {bytes_of(in) + elements_of(in) * sizeof(T), 0},
        [&] { return [f = place(range), in, s = stream()] { kernels::load_operand(f, in, s); }; });
  }

  // From `dense`, which may be the slice itself.
  void add_store(const SliceView<T>& out, const T* dense, const float* bias) {
    const bool in_place = dense == out.y;
    if (in_place && !bias && !out.mean) return;
    const double moved =
        in_place && !bias ? bytes_of(out) : bytes_of(out) + elements_of(out) * sizeof(T);
    const std::string shape = text_of(out) + (in_place ? " in place" : "") +
                              (out.mean ? " statistics" : "") + (bias ? " bias" : "");
    cases_.add("store_output", shape, {moved, 0}, [&] {
      return [=, partials = sums(plan_->forward), s = stream()] {
        kernels::store_output(out, dense, bias, partials, s);
      };
    });
  }

  void add_load_gradient(const GradientView<T>& gradient) {
    const std::string shape =
        text_of(gradient) + (gradient.normed() ? " norm" : "") + (gradient.gated() ? " gate" : "");
    cases_.add("load_gradient", shape, {bytes_of(gradient) + elements_of(gradient) * sizeof(T), 0},
               [&] {
                 return [dy = place(plan_->backward.output), gradient, s = stream()] {
                   kernels::load_gradient(dy, gradient, s);
                 };
               });
  }

  void add_store_gradient(const GradientSink<T>& sink, const T* df, const OperandView<T>& in) {
    const Cost cost{elements_of(in) * sizeof(T) + epilogue_bytes(in) + bytes_of(sink, in), 0};
    cases_.add("store_gradient", sink_text(sink, in), cost, [&] {
      return [=, partials = sums(plan_->backward), s = stream()] {
        kernels::store_gradient(sink, df, in, partials, s);
      };
    });
  }

  static std::string sink_text(const GradientSink<T>& sink, const OperandView<T>& in) {
    return text_of_operand(in) + (sink.how == Write::add ? " +=" : " =");
  }

  void add_bias_gradient(float* dbias, const T* dy, const SliceView<T>& out) {
    cases_.add("bias_gradient", text_of(out), {elements_of(out) * sizeof(T), 0}, [&] {
      return [=, pixels = out.pixels(), channels = out.channels, partials = sums(plan_->backward),
              s = stream()] { kernels::bias_gradient(dbias, dy, pixels, channels, partials, s); };
    });
  }

  // ---- convolutions

  void add_step(const Conv& conv) {
    const Window& w = conv.window;
    const auto in = program_.operand<T>(conv.in);
    const bool linear =
        !conv.depthwise && w.padding == 0 && w.kernel_h == in.height && w.kernel_w == in.width;
    if (conv.depthwise && program_.plan.options.conv != ConvForm::library)
      add_depthwise(conv);
    else if (conv.pointwise() || linear)
      add_product(conv);
    else
      add_convolution(conv);
  }

  void add_depthwise(const Conv& conv) {
    const auto in = program_.operand<T>(conv.in);
    const auto out = program_.output<T>(conv.out);
    const auto dy = program_.gradient<T>(conv.out);
    const auto sink = program_.sink<T>(index_, 0, conv.in);
    const T* weight = program_.weight<T>(conv.weight);
    const DepthwiseShape shape{conv.window.kernel_h, conv.window.stride, conv.window.padding};
    const double taps = double(shape.kernel) * shape.kernel, weights = taps * in.channels;
    const double flops = 2 * taps * elements_of(out);
    const std::string text =
        fmt::format("{} k{} s{}", text_of_operand(in), shape.kernel, shape.stride);
    cases_.add("depthwise_forward", text,
               {bytes_of(in) + weights * sizeof(T) + bytes_of(out), flops}, [&] {
                 return [=, partials = sums(plan_->forward), s = stream()] {
                   kernels::depthwise_forward(out, in, weight, shape, partials, s);
                 };
               });
    const double moved =
        bytes_of(dy) + bytes_of(in) + bytes_of(sink, in) + weights * (sizeof(T) + kReal);
    cases_.add("depthwise_backward", text, {moved, 2 * flops}, [&] {
      return
          [=, dweight = program_.dparameter<float>(conv.weight), partials = sums(plan_->backward),
           weight_partials = program_.scratch<float>(plan_->backward.weight), s = stream()] {
            kernels::depthwise_backward(sink, dweight, dy, in, weight, shape, partials,
                                        weight_partials, s);
          };
    });
  }

  static Matrix matrix(const void* data, cudaDataType_t type, int64_t rows, int64_t columns,
                       int64_t pitch, bool transposed = false) {
    return {data, type, rows, columns, pitch, transposed};
  }

  void add_matmul(const std::string& what, const Product& p, int64_t m, int64_t n, int64_t k) {
    const double bytes =
        double(sizeof(T)) * (double(m) * k + double(k) * n) +
        (p.d.type == CUDA_R_32F ? kReal : sizeof(T)) * double(m) * n * (p.beta > 0 ? 2 : 1);
    const std::string shape = fmt::format("{}x{}x{} pitch {}, {}, {}{}", m, n, k, p.a.pitch,
                                          p.b.pitch, p.d.pitch, p.beta > 0 ? " +=" : "");
    cases_.add("cuBLASLt " + what, shape, {bytes, 2. * double(m) * double(n) * double(k)},
               [&] { return plan_product(gpu_, p, workspace(program_)); });
  }

  // Pointwise and linear, column-major: yᵀ = W·fᵀ, dfᵀ = Wᵀ·dyᵀ, dWᵀ = fᵀ·dy.
  void add_product(const Conv& conv) {
    constexpr cudaDataType_t type = Storage<T>::matrix;
    const auto in = program_.operand<T>(conv.in);
    const auto out = program_.output<T>(conv.out);
    const auto gradient = program_.gradient<T>(conv.out);
    const auto sink = program_.sink<T>(index_, 0, conv.in);
    const Precision precision = program_.precision();
    const int64_t rows = out.pixels(), k = in.pixels() * in.channels / rows, outs = out.channels;
    const bool by_pixel = k == in.channels, biased = conv.bias != kNone;
    const bool in_place = in.plain() && (by_pixel || in.dense());
    const T* weight = program_.weight<T>(conv.weight);
    const auto row_pitch = [&](int pitch) { return by_pixel ? int64_t{pitch} : k; };

    const auto f_at = [&](const Range& range) {
      return in_place ? matrix(in.x, type, k, rows, row_pitch(in.pitch))
                      : matrix(place(range), type, k, rows, k);
    };
    if (!in_place) add_load(in, plan_->forward.operand);
    add_matmul("forward",
               {matrix(weight, type, k, outs, k, true), f_at(plan_->forward.operand),
                matrix(out.y, type, outs, rows, out.pitch), 0, precision},
               outs, rows, k);
    add_store(out, out.y, biased ? program_.master<float>(conv.bias) : nullptr);

    const bool plain = !gradient.normed() && !gradient.gated();
    const bool dy_in_place = gradient.dense() || (plain && !biased);
    if (!dy_in_place) add_load_gradient(gradient);
    const T* dy = dy_in_place ? gradient.grad : place(plan_->backward.output);
    const int64_t dy_pitch = dy_in_place ? gradient.pitch : gradient.channels;
    if (sink.grad) {
      T* df = in_place ? sink.grad : place(plan_->backward.operand);
      const int64_t pitch = row_pitch(in_place ? sink.pitch : in.channels);
      add_matmul("dgrad",
                 {matrix(weight, type, k, outs, k), matrix(dy, type, outs, rows, dy_pitch),
                  matrix(df, type, k, rows, pitch), in_place && sink.how == Write::add ? 1.f : 0.f,
                  precision},
                 k, rows, outs);
      if (!in_place) add_store_gradient(sink, df, in);
    }
    if (!in_place) add_load(in, plan_->backward.operand);
    float* dweight = program_.dparameter<float>(conv.weight);
    add_matmul("wgrad",
               {f_at(plan_->backward.operand), matrix(dy, type, outs, rows, dy_pitch, true),
                matrix(dweight, CUDA_R_32F, k, outs, k), 0, precision},
               k, outs, rows);
    if (biased) add_bias_gradient(program_.dparameter<float>(conv.bias), dy, out);
  }

  void add_cudnn(const std::string& what, const ConvolutionShape& shape, double bytes, double flops,
                 const std::function<std::function<void()>()>& make) {
    cases_.add("cuDNN " + what, text_of(shape), {bytes, flops}, make);
  }

  void add_convolution(const Conv& conv) {
    const auto in = program_.operand<T>(conv.in);
    const auto out = program_.output<T>(conv.out);
    const auto gradient = program_.gradient<T>(conv.out);
    const auto sink = program_.sink<T>(index_, 0, conv.in);
    const ConvolutionShape shape{.batch = in.batch,
                                 .height = in.height,
                                 .width = in.width,
                                 .channels = in.channels,
                                 .out_height = out.height,
                                 .out_width = out.width,
                                 .out_channels = out.channels,
                                 .kernel_h = conv.window.kernel_h,
                                 .kernel_w = conv.window.kernel_w,
                                 .stride = conv.window.stride,
                                 .padding = conv.window.padding,
                                 .groups = conv.depthwise ? in.channels : 1,
                                 .type = Storage<T>::tensor,
                                 .precision = program_.precision()};
    const int64_t weights = elements(program_.graph.parameters[conv.weight].memory);
    const double flops = 2 * elements_of(out) * double(weights) / out.channels;
    const double bytes = (elements_of(in) + elements_of(out) + double(weights)) * sizeof(T);
    const T* weight = program_.weight<T>(conv.weight);
    const Workspace space = workspace(program_);

    if (!in.dense()) add_load(in, plan_->forward.operand);
    const T* f = in.dense() ? in.x : place(plan_->forward.operand);
    T* y = out.dense() ? out.y : place(plan_->forward.output);
    add_cudnn("forward", shape, bytes, flops,
              [&] { return plan_forward(gpu_, y, f, weight, shape, space); });
    add_store(out, y, conv.bias == kNone ? nullptr : program_.master<float>(conv.bias));

    if (!gradient.dense()) add_load_gradient(gradient);
    const T* dy = gradient.dense() ? gradient.grad : place(plan_->backward.output);
    if (sink.grad) {
      const bool direct = in.dense() && sink.how == Write::assign;
      T* df = direct ? sink.grad : place(plan_->backward.operand);
      add_cudnn("dgrad", shape, bytes, flops,
                [&] { return plan_dgrad(gpu_, df, weight, dy, shape, space); });
      if (!direct) add_store_gradient(sink, df, in);
    }
    if (!in.dense()) add_load(in, plan_->backward.operand);
    const T* again = in.dense() ? in.x : place(plan_->backward.operand);
    float* dweight = program_.dparameter<float>(conv.weight);
    constexpr bool direct = std::is_same_v<T, float>;  // else cuDNN's is in the storage type
    void* dw = direct ? static_cast<void*>(dweight) : place(plan_->backward.weight);
    add_cudnn("wgrad", shape, bytes, flops,
              [&] { return plan_wgrad(gpu_, dw, again, dy, shape, space); });
    if constexpr (!direct)
      cases_.add("cast_back", fmt::format("{}", weights),
                 {double(weights) * (sizeof(T) + kReal), 0}, [&] {
                   return [=, from = static_cast<const T*>(dw), s = stream()] {
                     kernels::cast_back(dweight, from, weights, s);
                   };
                 });
    if (conv.bias != kNone) add_bias_gradient(program_.dparameter<float>(conv.bias), dy, out);
  }

  // ---- the other steps

  void add_step(const SqueezeExcite& se) {
    const auto in = program_.operand<T>(se.in);
    const GateView<float> m = program_.gate<float>(se.gate);
    const kernels::GateVectors gate{m.gate,     m.pooled,        m.slope, m.slope_xhat, m.dz_h,
                                    m.dz_slope, m.dz_slope_xhat, m.q,     m.hidden,     m.dhidden};
    const int squeezed = program_.graph.gates[se.gate].squeezed;
    const kernels::SqueezeExciteWeights weights{
        program_.master<float>(se.reduce_weight), program_.master<float>(se.reduce_bias),
        program_.master<float>(se.expand_weight), program_.master<float>(se.expand_bias)};
    const kernels::SqueezeExciteGradients gradients{
        program_.dparameter<float>(se.reduce_weight), program_.dparameter<float>(se.reduce_bias),
        program_.dparameter<float>(se.expand_weight), program_.dparameter<float>(se.expand_bias)};
    const double nc = double(in.batch) * in.channels, ns = double(in.batch) * squeezed;
    const double cs = double(in.channels) * squeezed;
    const std::string shape = fmt::format("{} to {}", text_of_operand(in), squeezed);
    cases_.add("squeeze_excite_forward", shape,
               {bytes_of(in) + kReal * (4 * nc + 2 * ns + 2 * cs), 4 * ns * in.channels}, [&] {
                 return [=, s = stream()] {
                   kernels::squeeze_excite_forward(gate, in, weights, squeezed, s);
                 };
               });
    cases_.add("squeeze_excite_backward", shape,
               {kReal * (8 * nc + 2 * ns + 4 * cs), 8 * ns * in.channels}, [&] {
                 return [=, sink = program_.sums<T>(se.in), s = stream()] {
                   kernels::squeeze_excite_backward(sink, gate, gradients, in, weights, squeezed,
                                                    s);
                 };
               });
  }

  void add_step(const Pool& pool) {
    const auto in = program_.operand<T>(pool.in);
    const auto out = program_.output<T>(pool.out);
    const auto dy = program_.gradient<T>(pool.out);
    const auto sink = program_.sink<T>(index_, 0, pool.in);
    const Window& w = pool.window;
    const kernels::PoolShape shape{w.kernel_h, w.kernel_w, w.stride, w.padding, pool.maximal};
    const std::string text =
        fmt::format("{} {} k{}x{} s{}", text_of_operand(in), pool.maximal ? "max" : "average",
                    w.kernel_h, w.kernel_w, w.stride);
    cases_.add("pool_forward", text, {bytes_of(in) + bytes_of(out), 0}, [&] {
      return [=, partials = sums(plan_->forward), s = stream()] {
        kernels::pool_forward(out, in, shape, partials, s);
      };
    });
    if (!sink.grad) return;
    const double read = bytes_of(dy) + (pool.maximal ? bytes_of(in) : epilogue_bytes(in));
    cases_.add("pool_backward", text, {read + bytes_of(sink, in), 0}, [&] {
      return [=, partials = sums(plan_->backward), s = stream()] {
        kernels::pool_backward(sink, dy, in, shape, partials, s);
      };
    });
  }

  void add_step(const Add& add) {
    const auto a = program_.operand<T>(add.a), b = program_.operand<T>(add.b);
    const auto out = program_.output<T>(add.out);
    cases_.add("add_forward", text_of_operand(a) + " + " + text_of_operand(b),
               {bytes_of(a) + bytes_of(b) + bytes_of(out), 0}, [&] {
                 return [=, partials = sums(plan_->forward), s = stream()] {
                   kernels::add_forward(out, a, b, partials, s);
                 };
               });
    const auto gradient = program_.gradient<T>(add.out);
    const GradientSink<T> sinks[] = {program_.sink<T>(index_, 0, add.a),
                                     program_.sink<T>(index_, 1, add.b)};
    if (!sinks[0].grad && !sinks[1].grad) return;
    if (!gradient.dense()) add_load_gradient(gradient);
    const T* dy = gradient.dense() ? gradient.grad : place(plan_->backward.output);
    if (sinks[0].grad) add_store_gradient(sinks[0], dy, a);
    if (sinks[1].grad) add_store_gradient(sinks[1], dy, b);
  }

  void add_step(const Loss& loss) {
    const auto logits = program_.operand<T>(loss.in);
    T* dlogits = program_.sink<T>(index_, 0, loss.in).grad;
    cases_.add("cross_entropy", text_of_operand(logits), {2 * bytes_of(logits), 0}, [&] {
      return [=, targets = program_.targets(), arenas = program_.arenas, s = stream()] {
        kernels::cross_entropy(dlogits, arenas.results, logits, targets, arenas.scale, s);
      };
    });
  }

  Cuda& gpu_;
  const Program& program_;
  Cases& cases_;
  const StepPlan* plan_ = nullptr;  // of the step under way
  int index_ = 0;
};

// The step around the layers: gradient norm, Adam with its storage copies, loss scale, running
// statistics. Flops of an update are not counted: it waits for memory.
template <class T>
void StepCases<T>::add_update(const NormEntries& norms) {
  const Arenas& a = program_.arenas;
  const int64_t n = program_.plan.layout.trained;
  const kernels::GroupTable groups{a.group_of, a.groups};
  const auto* gradients = reinterpret_cast<const float*>(a.gradients);
  const kernels::UpdateArrays<T> arrays{.weights = reinterpret_cast<float*>(a.parameters),
                                        .moments = reinterpret_cast<float*>(a.moments),
                                        .copies = weights_are_masters(program_.precision())
                                                      ? nullptr
                                                      : reinterpret_cast<T*>(a.weights),
                                        .averages = nullptr,
                                        .gradients = gradients};
  const std::string shape = fmt::format("{}", n);
  cases_.add("gradient_norm", shape, {kReal * double(n), 0}, [&] {
    return [=, s = stream()] {
      kernels::gradient_norm(a.scale, a.norm_partials, gradients, groups, n, s);
    };
  });
  const double moved =
      7 * kReal + (arrays.copies ? sizeof(T) : 0);  // w, m, v read and written, g read
  cases_.add("update", shape, {moved * double(n), 0}, [&] {
    return [=, s = stream()] {
      visit_update({}, [&](const auto& step) {
        kernels::update(arrays, groups, n, a.params, a.scale, step, 0, 0, s);
      });
    };
  });
  cases_.add("finish_step", "1", {sizeof(ScaleState) + sizeof(StepResult), 0}, [&] {
    return [=, s = stream()] { kernels::finish_step(a.scale, a.results, a.params, true, s); };
  });
  if (norms.count == 0) return;
  const double channels = double(program_.plan.layout.state) / 2;
  cases_.add("update_running", fmt::format("{} norms", norms.count), {6 * kReal * channels, 0},
             [&] {
               return [=, s = stream()] {
                 kernels::update_running(norms.entries, norms.count, norms.max_channels, s);
               };
             });
}

template <class T>
void StepCases<T>::add_images() {
  const auto image = program_.output<T>(program_.graph.image);
  cases_.add("load_images", text_of(image), {elements_of(image) * (1 + sizeof(T)), 0}, [&] {
    return [to = image.y, view = program_.images(), s = stream()] {
      kernels::load_images(to, view, s);
    };
  });
}

}  // namespace

std::vector<KernelCase> kernel_cases(Cuda& gpu, const Program& program, const NormEntries& norms,
                                     const std::vector<int>& left_out) {
  Cases cases;
  visit_storage(program.precision(), [&]<class T>() {
    StepCases<T> steps(gpu, program, cases);
    steps.add_update(norms);
    steps.add_images();
    for (int i = 0; i < static_cast<int>(program.graph.steps.size()); ++i)
      if (std::find(left_out.begin(), left_out.end(), i) == left_out.end()) steps.add(i);
  });
  return cases.take();
}

}  // namespace engine::cuda
