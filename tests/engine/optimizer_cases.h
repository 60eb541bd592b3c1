// What every backend's update is compared with: traces of torch.optim, recorded by
// tools/compare/optimizers.py, and the big batch that accumulated gradients stand for.
#pragma once

#include "engine/session.h"
#include "tests/engine/ranks.h"

namespace engine::test {

// CHECKs parameters, averages, gradient norms and skips of every trace of the precision's masters:
// 1e-12 in double, 1e-6 in float.
void check_optimizer_traces(Backend& backend, Precision precision);

// CHECKs that a batch in three shares moves a model without norms as the whole does, to `tolerance`
// (relative L2 of all parameters), and that the shares leave nothing behind.
void check_accumulation(Backend& backend, Precision precision, double tolerance);

// CHECKs that ranks that each take their images in two shares train as one rank on the whole,
// clipped by the norm of the sum.
void check_accumulation_in_parallel(int ranks, const MakeBackend& make_backend);

// CHECKs that a training of the head alone moves it as a training of everything would, without a
// backward of the layers below.
void check_frozen(Backend& backend, Precision precision);

// CHECKs frozen and undecayed parameters, averages that start and move as they should, exchange and
// back, and a resumed training, to the bit, of a model with everything.
void check_recipe(Backend& backend, Precision precision);

}  // namespace engine::test
