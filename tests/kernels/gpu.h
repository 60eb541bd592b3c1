// What the kernel tests share: arrays that live on the device and, as double, on the host; operands
// and gradients with random contents as views of both. A kernel works on the device's view, the
// reference on the host's, from the same (rounded) inputs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference.h"
#include "tests/support.h"

namespace engine::test {

inline bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

template <class T>
constexpr DType kType = std::is_same_v<T, float>    ? DType::f32
                        : std::is_same_v<T, __half> ? DType::f16
                                                    : DType::bf16;

inline float plain(float x) {
  return x;
}
inline float plain(__half x) {
  return __half2float(x);
}
inline float plain(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class T>
T rounded(float x) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

inline std::vector<float> normal(size_t n, uint32_t seed, float mean = 0, float deviation = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> draw(mean, deviation);
  std::vector<float> values(n);
  for (float& v : values) v = draw(rng);
  return values;
}

inline std::vector<float> uniform_values(size_t n, uint32_t seed, float low, float high) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> draw(low, high);
  std::vector<float> values(n);
  for (float& v : values) v = draw(rng);
  return values;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// What the matrix unit gets of these values. Where a channel varies little, all of its values are
// rounded alike, and the sum of many products is off by as much.
template <class T>
std::vector<double> as_multiplied(std::vector<double> values) {
  for (double& v : values) v = plain(rounded<T>(static_cast<float>(v)));
  return values;
}

// Plain device memory.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    REQUIRE(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<size_t>(1, size_) * sizeof(T)) ==
            cudaSuccess);
    cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  explicit DeviceArray(size_t n) : DeviceArray(std::vector<T>(n)) {}
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::vector<T> download() const {
    std::vector<T> values(size_);
    REQUIRE(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

// T on the device, the same values as double on the host.
template <class T>
class Mirror {
 public:
  Mirror() : Mirror(std::vector<float>{}) {}
  explicit Mirror(const std::vector<float>& values) : device_(round_all(values)) {
    for (const float v : values) host_.push_back(plain(rounded<T>(v)));
  }
  Mirror(size_t n, float fill) : Mirror(std::vector<float>(n, fill)) {}

  T* device() const { return host_.empty() ? nullptr : device_.data(); }
  double* host() { return host_.empty() ? nullptr : host_.data(); }
  const std::vector<double>& values() const { return host_; }
  std::vector<T> download() const { return device_.download(); }

  // The device's values against the host's.
  void check(Tolerance allowed, std::string_view what) const {
    const std::vector<T> ours = device_.download();
    std::vector<double> values;
    for (const T& v : ours) values.push_back(plain(v));
    expect_close(values, host_, allowed, what);
  }

 private:
  static std::vector<T> round_all(const std::vector<float>& values) {
    std::vector<T> out;
    for (const float v : values) out.push_back(rounded<T>(v));
    return out;
  }
  std::vector<double> host_;
  DeviceArray<T> device_;
};

// The device's values against the host's.
template <class T>
void check_close(const DeviceArray<T>& ours, const std::vector<double>& expected,
                 std::string_view what) {
  std::vector<double> values;
  for (const T& v : ours.download()) values.push_back(plain(v));
  expect_close(values, expected, tolerance(kType<T>), what);
}

// Sums over `count` values of about one, in fp32.
inline Tolerance sum_tolerance(double count) {
  return {1e-6 * count + 1e-5, 1e-5};
}

struct Extent {
  int batch, height, width, channels, pitch, c0;
  size_t pixels() const { return size_t(batch) * height * width; }
  size_t elements() const { return pixels() * pitch; }
};

// The output of a window that slides over it.
inline Extent output_of(Extent in, const Window& w) {
  in.height = (in.height + 2 * w.padding - w.kernel_h) / w.stride + 1;
  in.width = (in.width + 2 * w.padding - w.kernel_w) / w.stride + 1;
  return in;
}

// Norm parameters of a slice, on both sides.
struct NormArrays {
  NormArrays(int channels, uint32_t seed)
      : mean(normal(channels, seed, 0.3f)),
        var(uniform_values(channels, seed + 1, 0.5f, 2.f)),
        gamma(normal(channels, seed + 2, 0.8f, 0.5f)),
        beta(normal(channels, seed + 3)) {}
  NormView<float> device_view() const {
    return {mean.device(), var.device(), gamma.device(), beta.device(), 1e-3f};
  }
  NormView<double> host_view() {
    return {mean.host(), var.host(), gamma.host(), beta.host(), double(1e-3f)};
  }
  Mirror<float> mean, var, gamma, beta;
};

enum class GateKind { none, learned, elements, image };

struct OperandOptions {
  bool norm = true;
  Activation act = Activation::silu;
  GateKind gate = GateKind::none;
};

// A slice of random values and what is read with it.
template <class T>
class OperandCase {
 public:
  OperandCase(const Extent& e, const OperandOptions& o, uint32_t seed)
      : extent(e),
        options(o),
        x(normal(e.elements(), seed, 0.5f)),
        norm(e.channels, seed + 10),
        gate(uniform_values(o.gate == GateKind::learned ? size_t(e.batch) * e.channels : 0,
                            seed + 20, 0.1f, 0.9f)),
        params_(StepParams{.seed = 7, .epoch = 2, .position = 11}),
        device_params_(std::vector<StepParams>{params_}) {}

  OperandView<T> device_view() {
    return view<T>(x.device(), norm.device_view(), gate.device(), device_params_.data());
  }
  OperandView<double> host_view() {
    return view<double>(x.host(), norm.host_view(), gate.host(), &params_);
  }

  Extent extent;
  OperandOptions options;
  Mirror<T> x;
  NormArrays norm;
  Mirror<float> gate;

 private:
  template <class D>
  OperandView<D> view(D* x_data, NormView<Real<D>> n, Real<D>* g, const StepParams* params) const {
    OperandView<D> v{.x = x_data + extent.c0,
                     .batch = extent.batch,
                     .height = extent.height,
                     .width = extent.width,
                     .channels = extent.channels,
                     .pitch = extent.pitch};
    if (options.norm) v.norm = n;
    v.act = options.act;
    v.gate = g;
    if (options.gate == GateKind::elements || options.gate == GateKind::image)
      v.random = {0.7f, options.gate == GateKind::image, purpose("drop"), params};
    return v;
  }
  StepParams params_;
  DeviceArray<StepParams> device_params_;
};

struct GradientOptions {
  bool normed = true, gated = false;
  Activation act = Activation::silu;
  bool scaled = false;  // a sum's gradient; normed
};

// The gradient of a slice as its producer reads it.
template <class T>
class GradientCase {
 public:
  GradientCase(const Extent& e, const GradientOptions& o, uint32_t seed)
      : extent(e),
        options(o),
        grad(normal(e.elements(), seed)),
        x(normal(e.elements(), seed + 1, 0.5f)),
        norm(e.channels, seed + 10),
        k0(normal(e.channels, seed + 20, 0, 0.1f)),
        k1(normal(e.channels, seed + 21, 0, 0.1f)),
        gate(uniform_values(size_t(e.batch) * e.channels, seed + 22, 0.1f, 0.9f)),
        q(normal(size_t(e.batch) * e.channels, seed + 23, 0, 0.2f)) {}

  GradientView<T> device_view() {
    return view<T>(grad.device(), x.device(), norm.device_view(), k0.device(), k1.device(),
                   gate.device(), q.device());
  }
  GradientView<double> host_view() {
    return view<double>(grad.host(), x.host(), norm.host_view(), k0.host(), k1.host(), gate.host(),
                        q.host());
  }

  Extent extent;
  GradientOptions options;
  Mirror<T> grad, x;
  NormArrays norm;
  Mirror<float> k0, k1, gate, q;

 private:
  template <class D>
  GradientView<D> view(D* g, D* y, NormView<Real<D>> n, Real<D>* k_0, Real<D>* k_1, Real<D>* s,
                       Real<D>* q_data) const {
    GradientView<D> v{.grad = g + extent.c0,
                      .x = y + extent.c0,
                      .batch = extent.batch,
                      .height = extent.height,
                      .width = extent.width,
                      .channels = extent.channels,
                      .pitch = extent.pitch};
    if (options.normed) {
      v.norm = n;
      if (!options.gated && !options.scaled) v.norm.gamma = v.norm.beta = nullptr;
      v.scaled = options.scaled;
      v.k0 = k_0;
      v.k1 = k_1;
    }
    if (options.gated) {
      v.gate = s;
      v.q = q_data;
      v.act = options.act;
    }
    return v;
  }
};

// Where a step writes, and the statistics that it takes.
template <class T>
class OutputCase {
 public:
  OutputCase(const Extent& e, bool statistics)
      : extent(e),
        y(normal(e.elements(), 99)),
        mean(statistics ? e.channels : 0, 0),
        var(statistics ? e.channels : 0, 0) {}
  SliceView<T> device_view() {
    return {y.device() + extent.c0, extent.batch, extent.height, extent.width,
            extent.channels,        extent.pitch, mean.device(), var.device()};
  }
  SliceView<double> host_view() {
    return {y.host() + extent.c0, extent.batch, extent.height, extent.width,
            extent.channels,      extent.pitch, mean.host(),   var.host()};
  }
  void check(std::string_view what) {
    const Tolerance allowed = tolerance(kType<T>);
    y.check(allowed, what);
    if (!mean.values().empty()) {
      mean.check(allowed, std::string(what) + " mean");
      var.check({2 * allowed.absolute, 2 * allowed.relative}, std::string(what) + " variance");
    }
  }

  Extent extent;
  Mirror<T> y;
  Mirror<float> mean, var;
};

// Where a consumer leaves the gradient of its operand; everything starts with some value, to be
// added to.
template <class T>
class SinkCase {
 public:
  SinkCase(OperandCase<T>& in, Write how)
      : in_(in), how_(how), grad(normal(in.extent.elements(), 77)) {
    const int channels = in.extent.channels;
    learned_ = in.options.gate == GateKind::learned;
    const size_t norms = in.options.norm && !learned_ ? channels : 0;
    const size_t gates = learned_ ? size_t(in.extent.batch) * channels : 0;
    for (int i = 0; i < 4; ++i) sums_.emplace_back(new Mirror<float>(norms, 0.25f));
    for (int i = 0; i < 3; ++i) gates_.emplace_back(new Mirror<float>(gates, 0.25f));
  }
  GradientSink<T> device_view() {
    return {grad.device() + in_.extent.c0,
            in_.extent.pitch,
            how_,
            sums_[0]->device(),
            sums_[1]->device(),
            sums_[2]->device(),
            sums_[3]->device(),
            gates_[0]->device(),
            gates_[1]->device(),
            gates_[2]->device()};
  }
  GradientSink<double> host_view() {
    return {grad.host() + in_.extent.c0,
            in_.extent.pitch,
            how_,
            sums_[0]->host(),
            sums_[1]->host(),
            sums_[2]->host(),
            sums_[3]->host(),
            gates_[0]->host(),
            gates_[1]->host(),
            gates_[2]->host()};
  }
  // A view of the sums alone.
  template <class D>
  static GradientSink<D> sums_only(GradientSink<D> view) {
    view.grad = nullptr;
    return view;
  }
  // The sums that the device has taken.
  std::vector<float> sums() const {
    std::vector<float> all;
    for (const auto* kind : {&sums_, &gates_})
      for (const auto& sum : *kind)
        for (const float v : sum->download()) all.push_back(v);
    return all;
  }
  // `terms` is how many values of about one were added up for one df; `rounded` is what the sums
  // may be off because what df was made of was rounded.
  void check(std::string_view what, double terms = 1, double rounded = 0) {
    Tolerance allowed = tolerance(kType<T>);
    allowed.absolute *= terms;
    grad.check(allowed, what);
    Tolerance sums = sum_tolerance(terms * in_.extent.pixels());
    sums.absolute += rounded;
    for (const auto& sum : sums_) sum->check(sums, std::string(what) + " sums");
    // These are sums of dz as stored, after rounding; the reference's is not rounded.
    const Tolerance of_gate{sums.absolute + allowed.absolute, sums.relative + allowed.relative};
    for (const auto& sum : gates_) sum->check(of_gate, std::string(what) + " gate sums");
  }

 private:
  OperandCase<T>& in_;
  Write how_;
  bool learned_;
  std::vector<std::unique_ptr<Mirror<float>>> sums_, gates_;

 public:
  Mirror<T> grad;
};

// Scratch for the partial sums of a sweep over (pixels, channels).
inline DeviceArray<float> partials_for(const Extent& e) {
  return DeviceArray<float>(size_t(partial_rows(e.pixels(), e.channels)) * kPartialsPerChannel *
                            e.channels);
}

// The same with the counters that a sweep wants at zero, and leaves at zero.
class SweepScratch {
 public:
  explicit SweepScratch(const Extent& e) : rows_(partials_for(e)), done_(kernels::kMaxGroups) {}
  ~SweepScratch() { CHECK(done_.download() == std::vector<unsigned>(kernels::kMaxGroups)); }
  SweepScratch(const SweepScratch&) = delete;
  SweepScratch& operator=(const SweepScratch&) = delete;

  kernels::Partials view() const { return {rows_.data(), done_.data()}; }

 private:
  DeviceArray<float> rows_;
  DeviceArray<unsigned> done_;
};

// Odd sizes, few channels, channels that are no multiple of 8 or 16, slices inside a wider buffer
// (aligned to 16 bytes and not), batch 1.
inline std::vector<Extent> extents() {
  return {{1, 1, 1, 1, 1, 0},    {1, 5, 7, 3, 3, 0},     {2, 9, 4, 7, 11, 2},
          {5, 8, 8, 24, 24, 0},  {2, 13, 11, 40, 40, 0}, {1, 15, 6, 144, 160, 16},
          {2, 7, 7, 32, 96, 64}, {3, 3, 5, 40, 50, 5}};
}

}  // namespace engine::test
