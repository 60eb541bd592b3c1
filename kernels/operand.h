// The formulas that are not a plain linear map, once, for every backend (reference, CPU, CUDA):
//   load an operand    xhat = (x − mean)·inv_std,  u = gamma·xhat + beta,  h = act(u),  f = gate·h
//   load a gradient    dy = G − k0 − k1·xhat,  of a gated buffer G = gamma·inv_std·(dz·s + q)·act'
//   store a gradient   t = df·gate·act',  Σt, Σt·xhat,  G (= or +=) gamma·inv_std·t
// and the plain structs that carry their pointers. Activations are NHWC in type T; statistics,
// norms and gates are in Real, float for every T but double. Arithmetic is in Real.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/random.h"

namespace engine {

enum class Activation : uint8_t { none, relu, relu6, silu };

// The window of a convolution or a pool, in pixels; the padding is on all four sides.
struct Window {
  int kernel_h = 1, kernel_w = 1, stride = 1, padding = 0;
  bool operator==(const Window&) const = default;
};

template <class T>
struct RealOf {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};
template <class T>
using Real = typename RealOf<T>::type;

// ---------------------------------------------------------------- what varies between steps

// There is one per session, in device memory, uploaded before each launch of a captured step.
struct StepParams {
  uint64_t seed = 0;  // of the random gates
  uint32_t epoch = 0;
  uint32_t position = 0;  // in the epoch, of this rank's first sample
  uint32_t slot = 0;      // staging slot that holds this step's images and labels
  uint32_t result = 0;    // entry of the result ring that this step fills
  uint64_t step = 0;      // number of the step, from 1
  double learning_rate = 0;
  double divisor = 1;   // of the global batch: the loss and its gradient divide by it
  uint32_t packed = 0;  // the slot holds records of the pack, not images
  uint32_t mixed = 0;   // the slot holds mixes
  uint32_t total = 0;   // images of the step over all ranks
};

// Device state that outlives a step. PyTorch GradScaler: scale ×2 after `interval` steps in a row
// without overflow, ×½ after one with, and that step's update is skipped.
struct ScaleState {
  float scale = 1;
  int32_t good_steps = 0;  // since the last overflow or growth
  // A gradient of this step is not finite, so that its update is skipped. With a fixed scale
  // it stays set: the parameters keep the values with which that step was taken.
  int32_t found_inf = 0;
  int32_t dynamic = 0;          // 0: the scale is fixed
  int64_t optimizer_steps = 0;  // updates made; stands still on a skipped step
  double gradient_norm = 0;     // of this step, as StepResult's
};

// The points in a training step at which the device notes the time, in their order. `reduced` is
// when the sums over the ranks have arrived, `end` when the parameters are updated.
enum class Mark : uint8_t { begin, forward, backward, reduced, end };
constexpr int kMarks = 5;

// What a step reports, without a synchronisation, through a ring in host-visible memory.
struct StepResult {
  double loss = 0;  // this rank's share of the mean loss of the global batch (unscaled)
  int32_t correct1 = 0, correct5 = 0;
  int32_t overflow = 0;  // ScaleState::found_inf
  float scale = 1;
  double gradient_norm = 0;  // L2 over all that is updated, unscaled, before clipping; 0: no update
  // Nanoseconds of the device's clock, whose origin is arbitrary; 0: not noted. By Mark.
  uint64_t times[kMarks] = {};
  uint64_t step = 0;  // written last: number of the step that filled this entry, from 1
};

// The last step in which the device began and ended a sum over the ranks, in host-visible memory.
struct CollectiveMark {
  uint64_t began = 0, ended = 0;
};

// ---------------------------------------------------------------- activations

// Whether storage type T hides the 2 ulp of the device's fast exp and division.
template <class T>
inline constexpr bool kFast = sizeof(T) == 2;

// Fast makes no difference on the host, which is always exact.
template <class R, bool Fast = false>
ENGINE_HOST_DEVICE R sigmoid(R x) {
#if defined(__CUDA_ARCH__)
  if constexpr (Fast && sizeof(R) == 4) {  // 2 ulp each; exp(−x) → inf gives 0
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.f + power));
    return inverse;
  } else {
    return R(1) / (R(1) + exp(-x));
  }
#else
  return R(1) / (R(1) + std::exp(-x));
#endif
}

template <class R>
struct Activated {
  R h, slope;  // act(u), act'(u)
};

// The larger of x and 0; NaN stays.
template <class R>
ENGINE_HOST_DEVICE R positive_part(R x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(R) == 4) {
    float larger;
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(larger) : "f"(x));
    return larger;
  }
#endif
  return x < R(0) ? R(0) : x;
}

// At NaN every activation is NaN, and the slopes of relu and relu6 are 1, as in PyTorch: gradients
// go on.
template <class R, bool Fast = false>
ENGINE_HOST_DEVICE Activated<R> activate(Activation act, R u) {
  switch (act) {
    case Activation::relu: return {positive_part(u), u <= R(0) ? R(0) : R(1)};
    case Activation::relu6:  // slope 0 at 0 and at 6, as PyTorch's
      return {u < R(0) ? R(0) : u > R(6) ? R(6) : u, u <= R(0) || u >= R(6) ? R(0) : R(1)};
    case Activation::silu: {
      const R s = sigmoid<R, Fast>(u);
      return {u * s, s * (R(1) + u * (R(1) - s))};
    }
    case Activation::none: break;
  }
  return {u, R(1)};
}

// ---------------------------------------------------------------- one channel of a norm

template <class R>
struct ChannelNorm {
  R mean = 0, inv_std = 1, gamma = 1, beta = 0;  // the defaults leave x as it is
  ENGINE_HOST_DEVICE R scale() const { return gamma * inv_std; }
};

// Pointers to a norm as one operand sees it; each is (C,) and starts at the operand's first
// channel. Without a mean there is no norm. In evaluation mode mean and var are the running
// values.
template <class R>
struct NormView {
  const R *mean = nullptr, *var = nullptr, *gamma = nullptr, *beta = nullptr;
  R eps = 0;

  ENGINE_HOST_DEVICE bool present() const { return mean != nullptr; }
  ENGINE_HOST_DEVICE ChannelNorm<R> channel(int c) const {
    if (!present()) return {};
#if defined(__CUDA_ARCH__)
    return {mean[c], rsqrt(var[c] + eps), gamma ? gamma[c] : R(1), beta ? beta[c] : R(0)};
#else
    return {mean[c], R(1) / std::sqrt(var[c] + eps), gamma ? gamma[c] : R(1),
            beta ? beta[c] : R(0)};
#endif
  }
};

// Dropout (per element) or stochastic depth (per image): 0 or 1/keep, made on load from a counter.
struct RandomGate {
  float keep = 1;  // 1: no random gate
  bool whole_image = false;
  uint32_t purpose = 0;  // purpose(name of the gate)
  const StepParams* step = nullptr;

  ENGINE_HOST_DEVICE bool present() const { return keep < 1; }
  // `element` is (h·W + w)·C + c within the image.
  ENGINE_HOST_DEVICE float value(int n, uint32_t element) const {
    const uint32_t index = whole_image ? 0 : element;
    const Random4 block = philox(
        {step->seed, step->epoch, step->position + static_cast<uint32_t>(n), purpose}, index / 4);
    return uniform(block.bits[index % 4]) < keep ? 1.f / keep : 0.f;
  }
};

// ---------------------------------------------------------------- operands

template <class R>
struct Loaded {
  R xhat, h, slope;
};

template <class R, bool Fast = false>
ENGINE_HOST_DEVICE Loaded<R> load_operand(R x, const ChannelNorm<R>& norm, Activation act) {
  const R xhat = (x - norm.mean) * norm.inv_std;
  const Activated<R> a = activate<R, Fast>(act, norm.gamma * xhat + norm.beta);
  return {xhat, a.h, a.slope};
}

// What a step reads: channels [c0, c0 + channels) of an NHWC buffer with `pitch` channels; `x`
// points at c0.
template <class T>
struct OperandView {
  const T* x = nullptr;  // (N, H, W, pitch)
  int batch = 0, height = 0, width = 0, channels = 0, pitch = 0;
  NormView<Real<T>> norm;
  Activation act = Activation::none;
  const Real<T>* gate = nullptr;  // learned gate (N, channels), or null
  RandomGate random;

  ENGINE_HOST_DEVICE int64_t pixels() const { return int64_t{batch} * height * width; }
  ENGINE_HOST_DEVICE bool plain() const {
    return !norm.present() && act == Activation::none && gate == nullptr && !random.present();
  }
  // Whether loading is the identity on dense memory.
  ENGINE_HOST_DEVICE bool dense() const { return plain() && pitch == channels; }
  // The gate's factor at image n, pixel hw = h·W + w, channel c.
  ENGINE_HOST_DEVICE Real<T> gate_value(int n, int hw, int c) const {
    if (gate) return gate[int64_t{n} * channels + c];
    if (random.present()) return Real<T>(random.value(n, static_cast<uint32_t>(hw) * channels + c));
    return Real<T>(1);
  }
};

// Where a step writes: `y` points at the slice's first channel.
template <class T>
struct SliceView {
  T* y = nullptr;  // (N, H, W, pitch)
  int batch = 0, height = 0, width = 0, channels = 0, pitch = 0;
  // (channels,): the statistics to take while writing; null: no norm reads it.
  Real<T>*mean = nullptr, *var = nullptr;

  ENGINE_HOST_DEVICE int64_t pixels() const { return int64_t{batch} * height * width; }
  ENGINE_HOST_DEVICE bool dense() const { return pitch == channels; }
};

// ---------------------------------------------------------------- gradients

// The gradient of a slice, as its producer reads it; `grad` and `x` point at its first channel.
template <class T>
struct GradientView {
  const T* grad = nullptr;  // (N, H, W, pitch): G, or dz of a gated buffer
  const T* x = nullptr;     // (N, H, W, pitch): the slice itself; read if normed() or gated()
  int batch = 0, height = 0, width = 0, channels = 0, pitch = 0;
  // mean, var, eps if any norm reads the buffer; gamma, beta only if gated or scaled
  NormView<Real<T>> norm;
  bool scaled = false;                         // grad is a sum's gradient: G = gamma·inv_std·grad
  const Real<T>*k0 = nullptr, *k1 = nullptr;   // (channels,); with a norm or a gate
  const Real<T>*gate = nullptr, *q = nullptr;  // (N, channels); of a gated buffer
  Activation act = Activation::none;           // of the gated operand

  ENGINE_HOST_DEVICE int64_t pixels() const { return int64_t{batch} * height * width; }
  ENGINE_HOST_DEVICE bool normed() const { return norm.present(); }
  ENGINE_HOST_DEVICE bool gated() const { return gate != nullptr; }
  // Whether loading is the identity on dense memory.
  ENGINE_HOST_DEVICE bool dense() const { return !normed() && !gated() && pitch == channels; }
};

// G of a gated buffer from dz. gate and q are of this image and channel; slope is act' there.
template <class R>
ENGINE_HOST_DEVICE R ungate(R dz, R gate, R q, R scale, R slope) {
  return scale * (dz * gate + q) * slope;
}

// dy from G.
template <class R>
ENGINE_HOST_DEVICE R complete(R g, R xhat, R k0, R k1) {
  return g - k0 - k1 * xhat;
}

// dy at one element from x and G, from dz if the buffer is `gated`, or from a sum's gradient if it
// is `scaled`. gate and q are of this image and channel; they are unused unless `gated`.
template <class R, bool Fast = false>
ENGINE_HOST_DEVICE R load_gradient(R g, R x, const ChannelNorm<R>& norm, R k0, R k1, bool scaled,
                                   bool gated, Activation act, R gate, R q) {
  const Loaded<R> loaded = load_operand<R, Fast>(x, norm, gated ? act : Activation::none);
  if (scaled) g *= norm.scale();
  if (gated) g = ungate(g, gate, q, norm.scale(), loaded.slope);
  return complete(g, loaded.xhat, k0, k1);
}

enum class Write : uint8_t { assign, add };  // G = …, or G += …

// Where a consumer leaves the gradient of its operand, and the sums it takes in the same sweep.
template <class T>
struct GradientSink {
  // (N, H, W, pitch) at the operand's first channel; null: nobody wants it, or the sums alone.
  T* grad = nullptr;
  int pitch = 0;
  Write how = Write::assign;
  // (channels,), all +=; null: no norm.
  Real<T>*dgamma = nullptr, *dbeta = nullptr, *k0 = nullptr, *k1 = nullptr;
  // For a learned-gated operand instead, whose grad gets dz = df: (N, channels) sums of dz·h, dz·h'
  // and dz·h'·xhat, all =.
  Real<T>*dz_h = nullptr, *dz_slope = nullptr, *dz_slope_xhat = nullptr;

  ENGINE_HOST_DEVICE bool gated() const { return dz_h != nullptr; }
  ENGINE_HOST_DEVICE bool summed() const { return dgamma || dbeta || k0 || k1; }  // of a norm
  ENGINE_HOST_DEVICE bool wanted() const { return grad || summed(); }
};

// The dense gradient of a sum that is stored as h = act(u), a relu or relu6, whose slope is the
// same at h as at u: the backward of the sum makes dy = dh·act'(h) of it, in place.
template <class T>
struct ActivatedGradient {
  T* dy = nullptr;                  // (pixels, channels)
  const T* h = nullptr;             // (pixels, channels)
  const uint8_t* slopes = nullptr;  // whether act'(h) is 1, as bits; null: h says so
  Activation act = Activation::none;

  ENGINE_HOST_DEVICE bool activated() const { return act != Activation::none; }
};

// The slopes of a sum as bits: a byte has eight channels of a pixel, from the lowest bit on. Bytes
// lie in planes of 64 channels, so that blocks of that many read memory in runs.
constexpr int kSlopesOfByte = 8, kSlopePlane = 64;
ENGINE_HOST_DEVICE int64_t slope_byte(int64_t pixels, int64_t pixel, int channel) {
  return (channel / kSlopePlane * pixels + pixel) * (kSlopePlane / kSlopesOfByte) +
         channel % kSlopePlane / kSlopesOfByte;
}
ENGINE_HOST_DEVICE int64_t slope_bytes(int64_t pixels, int channels) {
  return (channels + kSlopePlane - 1) / kSlopePlane * pixels * (kSlopePlane / kSlopesOfByte);
}

// What a maximum over windows of 3 × 3 keeps of each window for its backward: the tap that won,
// 3·row + column, or kNoTap where act' is 0 there; and x there. The extent is the output's, dense.
template <class T>
struct KeptMaxima {
  uint8_t* taps = nullptr;  // null: nothing is kept
  T* x = nullptr;

  KeptMaxima() = default;
  // In memory of `bytes(elements)`; null: none.
  KeptMaxima(void* memory, int64_t elements)
      : taps(memory ? static_cast<uint8_t*>(memory) + elements * sizeof(T) : nullptr),
        x(static_cast<T*>(memory)) {}
  static constexpr int64_t bytes(int64_t elements) { return elements * (1 + sizeof(T)); }
};
constexpr int kNoTap = 15;

// ---------------------------------------------------------------- learned gates

// The vectors of a squeeze-excite's gate: eight of (N, C), two of (N, S).
template <class R>
struct GateView {
  // The gate s, the mean of h, Σh' and Σh'·xhat over the pixels: the forward leaves them.
  R *gate = nullptr, *pooled = nullptr, *slope = nullptr, *slope_xhat = nullptr;
  // The sums that the backward of the gated operand's reader leaves.
  R *dz_h = nullptr, *dz_slope = nullptr, *dz_slope_xhat = nullptr;
  // The share of the gradient that comes through the pool: the squeeze-excite's backward leaves it.
  R* q = nullptr;
  // silu(u) and silu'(u) of the hidden layer, (N, S).
  R *hidden = nullptr, *dhidden = nullptr;
};

}  // namespace engine
