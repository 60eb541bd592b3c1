// Training samples of a pack in device memory: the numbers that the stages of augment.h would draw,
// as a record for the device, which makes the same picture of them.
#pragma once

#include <cstdint>
#include <string>

#include "engine/rng.h"
#include "io/data/pack.h"
#include "io/images/augment.h"
#include "io/images/preprocess.h"
#include "kernels/image.h"

namespace engine {

// What keeps a recipe from being done on the device, for people; empty if nothing does. Crops, flips
// and colours can be; resized crops, warps, blur, erasing and RandAugment cannot, and the pack must
// hold what `preprocess` resizes to.
std::string device_obstacle(const AugmentConfig& config, const Preprocess& preprocess,
                            const PackSpec& spec);

// What sample_crop() and edit_stages() do to a picture of width x height pixels with the
// Rng of `key`; it is stored from `offset` on.
ImageRecord sample_record(const AugmentConfig& config, const Preprocess& preprocess,
                          uint64_t offset, int width, int height, const RandomKey& key);

}  // namespace engine
