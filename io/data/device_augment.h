// Training samples of a pack in device memory: the random numbers that the stages of augment.h
// would use, as a record from which the device makes the same picture.
#pragma once

#include <cstdint>
#include <string>

#include "engine/rng.h"
#include "io/data/pack.h"
#include "io/images/augment.h"
#include "io/images/preprocess.h"
#include "kernels/image.h"

namespace engine {

// Says what keeps a recipe from running on the device; empty if nothing does. Crops, flips and
// colours can run there; resized crops, warps, blur, erasing and RandAugment cannot, and the pack
// must hold what `preprocess` resizes to.
std::string device_obstacle(const AugmentConfig& config, const Preprocess& preprocess,
                            const PackSpec& spec);

// What sample_crop() and edit_stages() do with the Rng of `key` to a picture of width x height
// pixels, which is stored from byte `offset` of the pack on.
ImageRecord sample_record(const AugmentConfig& config, const Preprocess& preprocess,
                          uint64_t offset, int width, int height, const RandomKey& key);

}  // namespace engine
