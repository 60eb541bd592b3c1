#include "engine/cuda/cudnn.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "engine/cost.h"

namespace engine::cuda {

namespace {

constexpr size_t kMostTimed = 4;  // how many are timed at most, best guess first
constexpr int kSuggestions = 16;  // more than cuDNN has: every algorithm may come with two maths

constexpr float kOne = 1, kZero = 0;

struct Descriptors {
  TensorDescriptor x, y;
  FilterDescriptor w;
  ConvolutionDescriptor convolution;
};

// FMA is strict. The default lets float data go through TF32 tensor cores.
cudnnMathType_t math_type(Precision precision) {
  switch (precision) {
    case Precision::tf32: return CUDNN_DEFAULT_MATH;
    case Precision::fp16:
    case Precision::bf16: return CUDNN_TENSOR_OP_MATH;
    default: return CUDNN_FMA_MATH;
  }
}

Descriptors describe(const ConvolutionShape& s) {
  Descriptors d{create<TensorDescriptor>(cudnnCreateTensorDescriptor),
                create<TensorDescriptor>(cudnnCreateTensorDescriptor),
                create<FilterDescriptor>(cudnnCreateFilterDescriptor),
                create<ConvolutionDescriptor>(cudnnCreateConvolutionDescriptor)};
  check(cudnnSetTensor4dDescriptor(d.x.get(), CUDNN_TENSOR_NHWC, s.type, s.batch, s.channels,
                                   s.height, s.width));
  check(cudnnSetTensor4dDescriptor(d.y.get(), CUDNN_TENSOR_NHWC, s.type, s.batch, s.out_channels,
                                   s.out_height, s.out_width));
  check(cudnnSetFilter4dDescriptor(d.w.get(), s.type, CUDNN_TENSOR_NHWC, s.out_channels,
                                   s.channels / s.groups, s.window.kernel_h, s.window.kernel_w));
  check(cudnnSetConvolution2dDescriptor(d.convolution.get(), s.window.padding, s.window.padding,
                                        s.window.stride, s.window.stride, 1, 1,
                                        CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
  check(cudnnSetConvolutionGroupCount(d.convolution.get(), s.groups));
  check(cudnnSetConvolutionMathType(d.convolution.get(), math_type(s.precision)));
  return d;
}

// ---------------------------------------------------------------- the three directions
// Each with the algorithms that are neither Winograd nor FFT (strict forbids them, and on NHWC
// they gain nothing), in the order in which deterministic mode takes them. run: result, inputs.

struct Forward {
  using Algorithm = cudnnConvolutionFwdAlgo_t;
  using Suggestion = cudnnConvolutionFwdAlgoPerf_t;
  static constexpr const char *name = "forward", *kernel = "cuDNN forward";
  static constexpr Algorithm allowed[] = {
      CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
      CUDNN_CONVOLUTION_FWD_ALGO_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_DIRECT};

  static cudnnStatus_t suggest(cudnnHandle_t dnn, const Descriptors& d, int* found,
                               Suggestion* suggestions) {
    return cudnnGetConvolutionForwardAlgorithm_v7(dnn, d.x.get(), d.w.get(), d.convolution.get(),
                                                  d.y.get(), kSuggestions, found, suggestions);
  }
  static cudnnStatus_t workspace(cudnnHandle_t dnn, const Descriptors& d, Algorithm algorithm,
                                 size_t* bytes) {
    return cudnnGetConvolutionForwardWorkspaceSize(dnn, d.x.get(), d.w.get(), d.convolution.get(),
                                                   d.y.get(), algorithm, bytes);
  }
  static cudnnStatus_t run(cudnnHandle_t dnn, const Descriptors& d, Algorithm algorithm,
                           const Workspace& ws, void* y, const void* x, const void* w) {
    return cudnnConvolutionForward(dnn, &kOne, d.x.get(), x, d.w.get(), w, d.convolution.get(),
                                   algorithm, ws.data, ws.bytes, &kZero, d.y.get(), y);
  }
};

struct DataGradient {
  using Algorithm = cudnnConvolutionBwdDataAlgo_t;
  using Suggestion = cudnnConvolutionBwdDataAlgoPerf_t;
  static constexpr const char *name = "dgrad", *kernel = "cuDNN dgrad";
  static constexpr Algorithm allowed[] = {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                                          CUDNN_CONVOLUTION_BWD_DATA_ALGO_0};

  static cudnnStatus_t suggest(cudnnHandle_t dnn, const Descriptors& d, int* found,
                               Suggestion* suggestions) {
    return cudnnGetConvolutionBackwardDataAlgorithm_v7(dnn, d.w.get(), d.y.get(),
                                                       d.convolution.get(), d.x.get(), kSuggestions,
                                                       found, suggestions);
  }
  static cudnnStatus_t workspace(cudnnHandle_t dnn, const Descriptors& d, Algorithm algorithm,
                                 size_t* bytes) {
    return cudnnGetConvolutionBackwardDataWorkspaceSize(
        dnn, d.w.get(), d.y.get(), d.convolution.get(), d.x.get(), algorithm, bytes);
  }
  static cudnnStatus_t run(cudnnHandle_t dnn, const Descriptors& d, Algorithm algorithm,
                           const Workspace& ws, void* dx, const void* w, const void* dy) {
    return cudnnConvolutionBackwardData(dnn, &kOne, d.w.get(), w, d.y.get(), dy,
                                        d.convolution.get(), algorithm, ws.data, ws.bytes, &kZero,
                                        d.x.get(), dx);
  }
};

struct WeightGradient {
  using Algorithm = cudnnConvolutionBwdFilterAlgo_t;
  using Suggestion = cudnnConvolutionBwdFilterAlgoPerf_t;
  static constexpr const char *name = "wgrad", *kernel = "cuDNN wgrad";
  static constexpr Algorithm allowed[] = {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                                          CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0,
                                          CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3};

  static cudnnStatus_t suggest(cudnnHandle_t dnn, const Descriptors& d, int* found,
                               Suggestion* suggestions) {
    return cudnnGetConvolutionBackwardFilterAlgorithm_v7(dnn, d.x.get(), d.y.get(),
                                                         d.convolution.get(), d.w.get(),
                                                         kSuggestions, found, suggestions);
  }
  static cudnnStatus_t workspace(cudnnHandle_t dnn, const Descriptors& d, Algorithm algorithm,
                                 size_t* bytes) {
    return cudnnGetConvolutionBackwardFilterWorkspaceSize(
        dnn, d.x.get(), d.y.get(), d.convolution.get(), d.w.get(), algorithm, bytes);
  }
  static cudnnStatus_t run(cudnnHandle_t dnn, const Descriptors& d, Algorithm algorithm,
                           const Workspace& ws, void* dw, const void* x, const void* dy) {
    return cudnnConvolutionBackwardFilter(dnn, &kOne, d.x.get(), x, d.y.get(), dy,
                                          d.convolution.get(), algorithm, ws.data, ws.bytes, &kZero,
                                          d.w.get(), dw);
  }
};

// ---------------------------------------------------------------- one planned direction

template <class Direction>
class Planned {
 public:
  Planned(Cuda& gpu, void* result, const void* first, const void* second,
          const ConvolutionShape& shape, const Workspace& workspace)
      : dnn_(gpu.dnn.get()),
        descriptors_(describe(shape)),
        workspace_(workspace),
        result_(result),
        first_(first),
        second_(second) {
    std::vector<Candidate> candidates;
    if (const std::string* known = gpu.algorithms.find(key(shape)); known && gpu.algorithms.timed())
      candidates = parse(*known);
    if (candidates.empty()) candidates = find(shape, !gpu.algorithms.timed());
    std::vector<std::string> names;
    for (const Candidate& c : candidates) names.push_back(to_text(c));
    const size_t chosen =
        gpu.algorithms.choose(key(shape), names, [&](size_t i) { return run(candidates[i]); });
    found_ = chosen < candidates.size();
    if (!found_) return;
    chosen_ = candidates[chosen];
    check(set_math(chosen_));
  }

  bool found() const { return found_; }

  void run() const {
    check(Direction::run(dnn_, descriptors_, chosen_.algorithm, workspace_, result_, first_,
                         second_));
  }

 private:
  struct Candidate {
    typename Direction::Algorithm algorithm;
    cudnnMathType_t math;
    bool deterministic;
    bool operator==(const Candidate&) const = default;
  };

  static std::string key(const ConvolutionShape& s) {
    return fmt::format("cudnn {} {} x {}x{}x{}x{} w {}x{}x{} stride {} padding {} groups {}",
                       Direction::name, name_of(s.precision), s.batch, s.height, s.width,
                       s.channels, s.out_channels, s.window.kernel_h, s.window.kernel_w,
                       s.window.stride, s.window.padding, s.groups);
  }

  static std::string to_text(const Candidate& c) {
    return fmt::format("{}/{}", int{c.algorithm}, int{c.math});
  }

  // What to_text() wrote; nothing if it is none of ours or does not fit.
  std::vector<Candidate> parse(const std::string& text) const {
    for (const auto algorithm : Direction::allowed)
      for (const auto math : {CUDNN_DEFAULT_MATH, CUDNN_TENSOR_OP_MATH, CUDNN_FMA_MATH})
        if (const Candidate c{algorithm, math, false}; to_text(c) == text && fits(c)) return {c};
    return {};
  }

  // What fits, in cuDNN's order of expected time; in deterministic mode the first of our own.
  std::vector<Candidate> find(const ConvolutionShape& shape, bool deterministic) const {
    std::array<typename Direction::Suggestion, kSuggestions> suggestions{};
    int count = 0;
    const cudnnStatus_t status = Direction::suggest(dnn_, descriptors_, &count, suggestions.data());
    if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) return {};
    check(status);
    std::vector<Candidate> candidates;
    // Asking whether one fits takes milliseconds.
    const size_t enough = deterministic ? suggestions.size() : kMostTimed;
    for (int i = 0; i < count && candidates.size() < enough; ++i) {
      const auto& s = suggestions[i];
      // In fp32 no suggestion may bring tensor cores in.
      const bool strict = shape.precision == Precision::fp32;
      const Candidate c{s.algo, strict ? CUDNN_FMA_MATH : s.mathType,
                        s.determinism == CUDNN_DETERMINISTIC};
      if (s.status == CUDNN_STATUS_SUCCESS && (c.deterministic || !deterministic) &&
          rank(c) < std::size(Direction::allowed) &&
          std::find(candidates.begin(), candidates.end(), c) == candidates.end() && fits(c))
        candidates.push_back(c);
    }
    if (deterministic)
      std::stable_sort(candidates.begin(), candidates.end(),
                       [](const Candidate& a, const Candidate& b) { return rank(a) < rank(b); });
    return candidates;
  }

  static size_t rank(const Candidate& c) {
    return std::find(std::begin(Direction::allowed), std::end(Direction::allowed), c.algorithm) -
           std::begin(Direction::allowed);
  }

  bool fits(const Candidate& c) const {
    size_t bytes = 0;
    return set_math(c) == CUDNN_STATUS_SUCCESS &&
           Direction::workspace(dnn_, descriptors_, c.algorithm, &bytes) == CUDNN_STATUS_SUCCESS &&
           bytes <= workspace_.bytes;
  }

  cudnnStatus_t set_math(const Candidate& c) const {
    return cudnnSetConvolutionMathType(descriptors_.convolution.get(), c.math);
  }

  bool run(const Candidate& c) const {
    return set_math(c) == CUDNN_STATUS_SUCCESS &&
           Direction::run(dnn_, descriptors_, c.algorithm, workspace_, result_, first_, second_) ==
               CUDNN_STATUS_SUCCESS;
  }

  cudnnHandle_t dnn_;
  Descriptors descriptors_;
  Workspace workspace_;
  void* result_;
  const void *first_, *second_;
  Candidate chosen_{};
  bool found_ = false;
};

std::string text_of(const ConvolutionShape& s) {
  return fmt::format("{}x{}x{}x{} to {}x{}x{} {} g{}", s.batch, s.height, s.width, s.channels,
                     s.out_height, s.out_width, s.out_channels, engine::text_of(s.window),
                     s.groups);
}

// The two tensors and the weights move once, whatever the direction.
Cost cost_of(const ConvolutionShape& s) {
  const double in = double(s.batch) * s.height * s.width * s.channels;
  const double pixels = double(s.batch) * s.out_height * s.out_width;
  const double weights = double(s.out_channels) * s.window.kernel_h * s.window.kernel_w *
                         (double(s.channels) / s.groups);
  const double size = s.type == CUDNN_DATA_FLOAT ? 4 : 2;
  return {(in + pixels * s.out_channels + weights) * size, 2 * pixels * weights};
}

template <class Direction>
std::optional<Launch> plan(Cuda& gpu, void* result, const void* first, const void* second,
                           const ConvolutionShape& shape, const Workspace& workspace) {
  const auto planned =
      std::make_shared<Planned<Direction>>(gpu, result, first, second, shape, workspace);
  if (!planned->found()) return std::nullopt;
  return Launch{Direction::kernel, text_of(shape), cost_of(shape), [planned] { planned->run(); }};
}

}  // namespace

std::optional<Launch> plan_forward(Cuda& gpu, void* y, const void* x, const void* w,
                                   const ConvolutionShape& shape, const Workspace& workspace) {
  return plan<Forward>(gpu, y, x, w, shape, workspace);
}

std::optional<Launch> plan_dgrad(Cuda& gpu, void* dx, const void* w, const void* dy,
                                 const ConvolutionShape& shape, const Workspace& workspace) {
  return plan<DataGradient>(gpu, dx, w, dy, shape, workspace);
}

std::optional<Launch> plan_wgrad(Cuda& gpu, void* dw, const void* x, const void* dy,
                                 const ConvolutionShape& shape, const Workspace& workspace) {
  return plan<WeightGradient>(gpu, dw, x, dy, shape, workspace);
}

}  // namespace engine::cuda
