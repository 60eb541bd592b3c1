// What an update of the parameters is; the arithmetic is kernels/update.h, run by the backends over the flat arenas.
#pragma once

namespace engine {

struct OptimizerConfig {
  enum class Kind { adam, sgd } kind = Kind::adam;
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;  // Adam (Kingma & Ba), as torch.optim.Adam
  float momentum = 0.9f;                            // SGD, as torch.optim.SGD without dampening
  float weight_decay = 0;                           // added to the gradient, as in both
  int moments() const { return kind == Kind::adam ? 2 : 1; }  // arrays of optimizer state
};

}  // namespace engine
