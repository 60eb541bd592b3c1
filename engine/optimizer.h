// What an update of the parameters is; the arithmetic is kernels/update.h, run by the backends over
// the flat arenas.
#pragma once

namespace engine {

struct OptimizerConfig {
  enum class Kind { adam, sgd } kind = Kind::adam;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // Adam (Kingma & Ba), as torch.optim.Adam
  double momentum = 0.9;                          // SGD, as torch.optim.SGD without dampening
  double weight_decay = 0;                        // added to the gradient, as in both
  int moments() const { return kind == Kind::adam ? 2 : 1; }  // arrays of optimizer state
};

}  // namespace engine
