// What every backend's update is compared with: traces of torch.optim, recorded by
// tools/compare/optimizers.py, and the big batch that accumulated gradients stand for.
#pragma once

#include "engine/session.h"

namespace engine::test {

// CHECKs parameters, averages, gradient norms and skips of every trace of the precision's masters:
// 1e-12 in double, 1e-6 in float.
void check_optimizer_traces(Backend& backend, Precision precision);

// CHECKs that a batch in three shares moves a model without norms as the whole does, to `tolerance`
// (relative L2 of all parameters), and that the shares leave nothing behind.
void check_accumulation(Backend& backend, Precision precision, double tolerance);

// CHECKs frozen and undecayed parameters, averages that start and move as they should, exchange and
// back, and a resumed training, to the bit, of a model with everything.
void check_recipe(Backend& backend, Precision precision);

}  // namespace engine::test
