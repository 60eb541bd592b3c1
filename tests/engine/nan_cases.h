// What a backend does with a number that is not finite, over the step table.
#pragma once

#include "engine/backend.h"
#include "engine/session.h"

namespace engine::test {

// CHECKs that a NaN in a pixel of one image makes all logits of that image NaN and none of another,
// that a training step then has a loss that is NaN, says so and leaves the parameters alone, also
// the steps after it, that looking at its results names the first layer, and that a maximum gives
// its gradient to the NaN to which PyTorch gives it. `options` says precision and form.
void check_nan_propagates(Backend& backend, const SessionOptions& options);

// CHECKs that looking at the results of a step finds what is planted in one layer, forward and
// backward, and changes no bit of a step where all is finite.
void check_inspection(Backend& backend, const SessionOptions& options);

}  // namespace engine::test
