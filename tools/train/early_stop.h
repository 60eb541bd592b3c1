// When an epoch counts as better: what decides the best weights and when training stops early.
#pragma once

#include "engine/metrics.h"
#include "tools/train/checkpoint.h"

namespace engine {

enum class Watched { top1, loss };  // of the validation images

struct EarlyStopConfig {
  int patience = 0;      // epochs without improvement before the run ends; 0: never
  double min_delta = 0;  // a smaller improvement is none
  Watched watched = Watched::top1;
};

// By what is watched, by the other of the two where that is equal. The first epoch of an image size is always better.
bool is_better(Watched watched, const Metrics& metrics, int size, const BestEpoch& best);

void count_epoch(const EarlyStopConfig& config, EarlyStopState& state, const Metrics& metrics,
                 int size);

bool should_stop(const EarlyStopConfig& config, const EarlyStopState& state);

}  // namespace engine
