// When an epoch counts as better: this decides the best weights and when training stops early.
#pragma once

#include <cstdint>

#include "engine/measures/metrics.h"

namespace engine {

enum class Watched { top1, loss };  // of the validation images

struct EarlyStopConfig {
  int patience = 0;      // epochs without improvement before the run ends; 0: never
  double min_delta = 0;  // a smaller improvement is none
  Watched watched = Watched::top1;
};

struct EarlyStopState {
  double best = 0;
  int size = 0;        // of the images with which `best` was reached; 0: no epoch yet
  int bad_epochs = 0;  // in a row, without improvement
};

struct BestEpoch {
  int epoch = 0;  // from 1; 0: none yet
  int64_t step = 0;
  int size = 0;  // of the images; figures of different sizes do not compare
  double top1 = -1, loss = 0;
};

// Compares what is watched, then the other of the two. The first epoch of an image size is always
// better; what is not finite never is.
bool is_better(Watched watched, const Metrics& metrics, int size, const BestEpoch& best);

void count_epoch(const EarlyStopConfig& config, EarlyStopState& state, const Metrics& metrics,
                 int size);

bool should_stop(const EarlyStopConfig& config, const EarlyStopState& state);

}  // namespace engine
