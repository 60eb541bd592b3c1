// What the ranks of a process share. Its first rank alone writes to it, but for the rows of
// `evaluation` that each rank fills, and `started`. Process 0 keeps the run directory; every other
// holds its paths alone.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "engine/watchdog.h"
#include "io/data/dataset.h"
#include "tools/data/data_options.h"
#include "tools/machine/monitor.h"
#include "tools/score/columns.h"
#include "tools/score/evaluation.h"
#include "tools/score/model_file.h"
#include "tools/train/checkpoint.h"
#include "tools/train/run_directory.h"
#include "tools/train/train_config.h"

namespace engine {

struct TrainShared {
  TrainConfig config;
  TrainingData data;
  std::optional<ModelFile> weights;      // to start from
  std::optional<Checkpoint> checkpoint;  // to resume from
  RunIdentity identity;                  // of every checkpoint that is saved
  RunDirectory run;
  Cache cache;
  Monitor monitor;
  std::unique_ptr<Watchdog> watchdog;
  EvaluationResult evaluation;
  std::vector<Column> by_validation = {}, by_test = {};  // of --by, for the scores
  std::atomic<bool> started = false;                     // the first step is done
};

}  // namespace engine
