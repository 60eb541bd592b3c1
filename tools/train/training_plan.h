// What a training takes of each device, computed before anything runs.
#pragma once

#include <cstdint>

#include "engine/plan.h"
#include "tools/machine/device.h"
#include "tools/train/trainer.h"

namespace engine {

Graph training_graph(const TrainConfig& config, const TrainingData& data, int image_size);
PlanOptions plan_options(const TrainConfig& config, BackendKind kind, int batch);
UpdateMemory update_memory(const TrainConfig& config);

// The most images that rank 0's device holds, of all there are at most; a multiple of 8 where that is possible. Says
// what was chosen. Error(memory) if not even one fits.
int automatic_batch(const TrainConfig& config, const TrainingData& data, const Ranks& ranks);

// Of the smallest device's memory, what the training leaves for images.
uint64_t bytes_beside_training(const TrainConfig& config, const TrainingData& data,
                               const Ranks& ranks);

}  // namespace engine
