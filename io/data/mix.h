// Mixup and cutmix: which samples of a batch are mixed, and how. The device mixes them.
#pragma once

#include <vector>

#include "engine/rng.h"
#include "io/images/augment.h"
#include "kernels/image.h"

namespace engine {

// The mixtures of the `count` samples of one rank's batch. All have the same share and box, and
// sample i is mixed with sample count − 1 − i (timm's Mixup, mode "batch"). A batch that is left as
// it is has share 1. The key names the seed, the epoch and the position in the epoch of the batch's
// first sample; its purpose is set here. The random numbers are, in order: whether to mix; cutmix
// or mixup if both are used; Beta; the centre of the box.
std::vector<Mix> sample_mixes(const Mixing& mixing, RandomKey key, int count, int height,
                              int width);

// A number from the Beta(alpha, alpha) distribution, alpha > 0.
double sample_beta(double alpha, Rng& rng);

}  // namespace engine
