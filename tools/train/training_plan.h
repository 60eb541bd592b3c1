// What a training takes of each device, computed before anything runs.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/plan.h"
#include "io/data/dataset.h"
#include "tools/machine/device.h"
#include "tools/train/train_config.h"

namespace engine {

Graph training_graph(const TrainConfig& config, const TrainingData& data, int image_size);
PlanOptions plan_options(const TrainConfig& config, BackendKind kind, int batch);
UpdateMemory update_memory(const TrainConfig& config);

// The largest batch that rank 0's device holds, at most all images of a rank; a multiple of 8 where
// that is possible. Says what was chosen. Error(memory) if not even one image fits.
int automatic_batch(const TrainConfig& config, const TrainingData& data, const Ranks& ranks);

// The largest batch of a training with Adam and averages that a rank's memory holds, whoever else
// uses it; 0: not even one image.
int largest_batch(const Ranks& ranks, std::string_view model, int classes, int image_size);

// Error(memory) where the training does not fit its devices, whoever else uses them; of a GPU more
// is known when a session is made.
void check_memory(const TrainConfig& config, const TrainingData& data, const Ranks& ranks);

// Error(usage) where a batch norm would have a single value of each channel, which it makes 0
// (torch refuses that, too). `ranks` share the values with --sync-bn.
void check_norms(const TrainConfig& config, const TrainingData& data, int ranks);

// The bytes that the training leaves for images on the device with the least memory.
uint64_t bytes_beside_training(const TrainConfig& config, const TrainingData& data,
                               const Ranks& ranks);

}  // namespace engine
