// What a training would do, need and take, without doing it.
#pragma once

#include <string>

#include "io/data/dataset.h"
#include "tools/machine/device.h"
#include "tools/train/train_config.h"

namespace engine {

// Plan, parameters, arithmetic, memory per rank, and a time estimate from a few steps that are
// measured on the devices. That a training does not fit is part of the answer, not an Error.
std::string dry_run(const TrainConfig& config, const DeviceOptions& device,
                    const TrainingData& data);

}  // namespace engine
