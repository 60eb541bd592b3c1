// The end of a step, element by element, for every backend: optimizers, gradient clipping, averaged
// weights, loss scale. Formulas of torch.optim, torch.nn.utils.clip_grad_norm_,
// torch.cuda.amp.GradScaler and timm's ModelEmaV2.
#pragma once

#include <cmath>

#include "kernels/operand.h"

namespace engine {

// ---------------------------------------------------------------- optimizers

// What the parameters of a group share, as torch.optim's param_groups.
struct ParameterGroup {
  double rate = 1;  // factor on the learning rate; 0: frozen, not touched and not in the norm
  double weight_decay = 0;
  bool operator==(const ParameterGroup&) const = default;
};

constexpr int kMaxParameterGroups = 256;
constexpr int kUpdateBlock = 64;  // elements that share a group: tensors start at multiples of it

// A step holds what its config fixes, and what begin() and of_group() add.

struct AdamStep {
  static constexpr int kMoments = 2;
  double learning_rate, bias1, bias2;  // bias1 = 1 − beta1^t, bias2 = 1 − beta2^t, t counts from 1
  double beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW (Loshchilov & Hutter): the decay leaves the gradient alone
};

struct SgdStep {
  static constexpr int kMoments = 1;
  double learning_rate, momentum, weight_decay;
  bool nesterov;
  bool first;  // PyTorch starts the momentum buffer with the first gradient
};

template <bool Momentum>
struct RmspropStep {
  static constexpr int kMoments = Momentum ? 2 : 1;
  double learning_rate, alpha, eps, momentum, weight_decay;
};

// Updates round where torch.optim on a CPU does, so that the bits are its bits: a product that is
// added at once is not rounded, one that it stores first is.
template <class R>
ENGINE_HOST_DEVICE R multiply_add(R a, R b, R c) {
#if !defined(__CUDA_ARCH__)
  // The same as fmaf() but for ties, one in 2^29; fmaf() is a call unless the processor has it.
  if constexpr (sizeof(R) == 4) return static_cast<R>(double{a} * b + c);
#endif
  return std::fma(a, b, c);
}
template <class R>
ENGINE_HOST_DEVICE R multiply(R a, R b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(R) == 4)
    return __fmul_rn(a, b);
  else
    return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// decay·average + (1 − decay)·a·b
template <class R>
ENGINE_HOST_DEVICE R moving_average(R average, double decay, R a, R b) {
  return multiply_add(R(1 - decay) * a, b, multiply(R(decay), average));
}

// w −= lr/bias1 · m / (√v/√bias2 + eps), with m and v the exponential averages of g and g².
template <class R>
ENGINE_HOST_DEVICE void update(R& w, R (&moments)[2], R g, const AdamStep& s) {
  R &m = moments[0], &v = moments[1];
  if (s.decoupled)
    w = multiply(w, R(1 - s.learning_rate * s.weight_decay));
  else
    g = multiply_add(R(s.weight_decay), w, g);
  m = moving_average(m, s.beta1, R(1), g);
  v = moving_average(v, s.beta2, g, g);
  w -= R(s.learning_rate / s.bias1) * m / (std::sqrt(v) / R(std::sqrt(s.bias2)) + R(s.eps));
}

// m = momentum·m + g; w −= lr·m, or lr·(g + momentum·m) after Nesterov.
template <class R>
ENGINE_HOST_DEVICE void update(R& w, R (&moments)[1], R g, const SgdStep& s) {
  R& m = moments[0];
  g = multiply_add(R(s.weight_decay), w, g);
  m = s.first ? g : multiply(R(s.momentum), m) + g;
  w = multiply_add(R(-s.learning_rate), s.nesterov ? multiply_add(R(s.momentum), m, g) : m, w);
}

// v is the exponential average of g². m = momentum·m + g/(√v + eps); w −= lr·m.
template <class R, bool Momentum>
ENGINE_HOST_DEVICE void update(R& w, R (&moments)[RmspropStep<Momentum>::kMoments], R g,
                               const RmspropStep<Momentum>& s) {
  R& v = moments[0];
  g = multiply_add(R(s.weight_decay), w, g);
  v = moving_average(v, s.alpha, g, g);
  const R root = std::sqrt(v) + R(s.eps);
  if constexpr (Momentum) {
    R& m = moments[1];
    m = multiply(R(s.momentum), m) + g / root;
    w = multiply_add(R(-s.learning_rate), m, w);
  } else {
    w -= R(s.learning_rate) * g / root;
  }
}

// What changes from one update to the next; `updates` were made before.
template <class Step>
ENGINE_HOST_DEVICE void begin(Step& s, double learning_rate, int64_t updates) {
  s.learning_rate = learning_rate;
  if constexpr (requires { s.bias1; }) {
    const double t = static_cast<double>(updates + 1);
    s.bias1 = 1 - pow(s.beta1, t);
    s.bias2 = 1 - pow(s.beta2, t);
  }
  if constexpr (requires { s.first; }) s.first = updates == 0;
}

template <class Step>
ENGINE_HOST_DEVICE Step of_group(Step s, const ParameterGroup& group) {
  s.learning_rate *= group.rate;
  s.weight_decay = group.weight_decay;
  return s;
}

// ---------------------------------------------------------------- around them

// What is left of Σ g² by the blocks of a device, which add it up in a fixed order.
struct NormPartials {
  static constexpr int kBlocks = 1024;
  double sums[kBlocks];
  uint32_t done;  // blocks; zero between launches
};

// On the gradients, so that their norm stays below the limit; 0: no limit.
ENGINE_HOST_DEVICE double clip_factor(double norm, double limit) {
  if (limit <= 0) return 1;
  const double factor = limit / (norm + 1e-6);
  return factor > 1 ? 1 : factor;  // a NaN stays
}

// decay·average + (1 − decay)·value, which stays put where the two are equal.
template <class R>
ENGINE_HOST_DEVICE R averaged(R average, R value, double decay) {
  return average + R(1 - decay) * (value - average);
}

// Whether the sum of squares says that a gradient is not finite; doubles hold that of any floats.
ENGINE_HOST_DEVICE bool overflowed(double sum_of_squares) {
  return !(sum_of_squares <= 1.7976931348623157e308);
}

// Notes what the sum of the squares of a step's gradients says of them.
ENGINE_HOST_DEVICE void note_gradients(ScaleState& s, double sum_of_squares) {
  const bool earlier = s.found_inf && !s.dynamic;
  s.found_inf = earlier || overflowed(sum_of_squares);
  s.gradient_norm = std::sqrt(sum_of_squares) / s.scale;
}

// After an update or a skip: sets the scale of the next step, and what this one reports but its
// number. `updated` is false where nothing is to be updated; then only the scale in use is
// reported.
ENGINE_HOST_DEVICE void finish_step(ScaleState& s, StepResult& result, bool updated) {
  constexpr int kGrowthInterval = 2000;
  constexpr float kLargest = 3.402823466e38f;
  result.scale = s.scale;
  if (!updated) return;
  result.overflow = s.found_inf;
  result.gradient_norm = s.gradient_norm;
  if (!s.found_inf) ++s.optimizer_steps;
  if (!s.dynamic) return;
  if (s.found_inf) {
    s.scale *= 0.5f;
    s.good_steps = 0;
  } else if (++s.good_steps == kGrowthInterval) {
    if (s.scale * 2.f <= kLargest) s.scale *= 2.f;
    s.good_steps = 0;
  }
}

}  // namespace engine
