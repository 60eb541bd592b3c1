// What an update of the parameters is; the arithmetic is kernels/update.h, run by the backends over
// the flat arenas.
#pragma once

#include "engine/graph.h"
#include "kernels/update.h"

namespace engine {

struct OptimizerConfig {
  enum class Kind {
    adam,     // torch.optim.Adam (Kingma & Ba); the weight decay is added to the gradient
    adamw,    // torch.optim.AdamW (Loshchilov & Hutter): w −= lr·decay·w beside the step
    sgd,      // torch.optim.SGD without dampening
    rmsprop,  // torch.optim.RMSprop, not centred
  } kind = Kind::adam;
  double beta1 = 0.9, beta2 = 0.999;  // Adam, AdamW
  double eps = 1e-8;                  // all but SGD
  double momentum = 0.9;              // SGD, RMSprop
  double alpha = 0.99;                // RMSprop
  bool nesterov = false;              // SGD
  double weight_decay = 0;
  // The largest L2 norm of all gradients together, after unscaling and all-reduce, as in
  // torch.nn.utils.clip_grad_norm_; 0: no limit.
  double clip_norm = 0;

  int moments() const;  // arrays of optimizer state
};

// Calls use(step) with the kernels' form of the update.
template <class Use>
auto visit_update(const OptimizerConfig& c, Use&& use) {
  switch (c.kind) {
    case OptimizerConfig::Kind::adam:
    case OptimizerConfig::Kind::adamw:
      return use(AdamStep{.learning_rate = 0,
                          .bias1 = 0,
                          .bias2 = 0,
                          .beta1 = c.beta1,
                          .beta2 = c.beta2,
                          .eps = c.eps,
                          .weight_decay = 0,
                          .decoupled = c.kind == OptimizerConfig::Kind::adamw});
    case OptimizerConfig::Kind::rmsprop:
      if (c.momentum > 0) return use(RmspropStep<true>{0, c.alpha, c.eps, c.momentum, 0});
      return use(RmspropStep<false>{0, c.alpha, c.eps, 0, 0});
    case OptimizerConfig::Kind::sgd: break;
  }
  return use(SgdStep{0, c.momentum, 0, c.nesterov, false});
}

inline int OptimizerConfig::moments() const {
  return visit_update(*this, []<class Step>(const Step&) { return Step::kMoments; });
}

// How one parameter departs from the config.
struct ParameterRule {
  double rate = 1;  // factor on the learning rate; 0: frozen, not touched and not in the norm
  bool decay = true;
};

// Usual recipes decay weights of convolutions and linear layers, and neither norms nor biases.
inline bool decays_weight(const Parameter& parameter) {
  return parameter.kind == Parameter::Kind::weight;
}

}  // namespace engine
