// What a training would do, need and take, without doing it.
#pragma once

#include <string>

#include "io/data/dataset.h"
#include "tools/machine/device.h"
#include "tools/train/train_config.h"

namespace engine {

// Plan, parameters, arithmetic, memory per rank, and a time estimate from a few steps that are
// measured on the devices.
struct DryRun {
  std::string text;
  std::string obstacle;  // why the training does not fit; then there is no estimate
};
DryRun dry_run(const TrainConfig& config, const DeviceOptions& device, const TrainingData& data);

}  // namespace engine
