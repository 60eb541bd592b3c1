// One element of an optimizer update, for every backend. Formulas of torch.optim.Adam and torch.optim.SGD.
#pragma once

#include "kernels/random.h"

#include <cmath>

namespace engine {

struct AdamStep {
  double learning_rate, bias1, bias2;  // bias1 = 1 − beta1^t, bias2 = 1 − beta2^t, t counts from 1
  double beta1, beta2, eps, weight_decay;
};

// w −= lr/bias1 · m / (√v/√bias2 + eps), with m and v the exponential averages of g and g².
template <class R>
ENGINE_HOST_DEVICE void adam(R& w, R& m, R& v, R g, const AdamStep& s) {
  g += R(s.weight_decay) * w;
  m += R(1 - s.beta1) * (g - m);
  v = R(s.beta2) * v + R(1 - s.beta2) * g * g;
  w -= R(s.learning_rate / s.bias1) * m / (sqrt(v) / R(sqrt(s.bias2)) + R(s.eps));
}

struct SgdStep {
  double learning_rate, momentum, weight_decay;
  bool first;  // PyTorch starts the momentum buffer with the first gradient
};

template <class R>
ENGINE_HOST_DEVICE void sgd(R& w, R& m, R g, const SgdStep& s) {
  g += R(s.weight_decay) * w;
  m = s.first ? g : R(s.momentum) * m + g;
  w -= R(s.learning_rate) * m;
}

}  // namespace engine
