// Which pixels the network gets of a sample, in training and in evaluation.
#pragma once

#include <cstddef>

#include "io/data/dataset.h"
#include "io/data/loader.h"
#include "io/images/augment.h"
#include "io/images/decode.h"
#include "io/images/preprocess.h"

namespace engine {

// The decoded picture of a sample, with 1 or 3 channels. If the data set has a pack the picture is
// as the pack holds it, else it comes from memory or from its file. Error(data) if it cannot be
// read.
Image read_sample(const Dataset& data, size_t index, int channels, DecodeOptions options = {});

// Prepare a sample for a loader: crop x crop pixels, not yet normalised. `data` must outlive the
// function that is returned. With a pack, both start from its pictures; a resize that the pack has
// seen already changes nothing. `fast_decode` decodes large JPEG files at reduced size.
Prepare evaluation_input(const Dataset& data, const Preprocess& preprocess);
Prepare training_input(const Dataset& data, const Preprocess& preprocess,
                       const AugmentConfig& augment, bool fast_decode);

// Says what is done with a sample of a data set whose pack is in device memory. For evaluation
// `augment` is the preset `none`.
PrepareRecord record_input(const Dataset& data, const Preprocess& preprocess,
                           const AugmentConfig& augment);

}  // namespace engine
