// When an epoch counts as better: this decides the best weights and when training stops early.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tools/train/watch.h"

namespace engine {

struct EarlyStopConfig {
  int patience = 0;      // epochs without improvement before the run ends; 0: never
  double min_delta = 0;  // a smaller improvement is none
  // What is watched, as parse_watch() reads it. Nothing: top1, but by plateau the loss, as by
  // PyTorch's and Keras' own recipes.
  std::optional<std::string> watch = {};

  Watch watched() const { return parse_watch(watch.value_or("top1")); }
  Watch plateau() const { return parse_watch(watch.value_or("loss")); }
};

// What a validation says to those who compare epochs.
struct EpochFigures {
  double top1 = 0, loss = 0;
  double merit = 0;  // of what is watched: more is better, NaN never is
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
  double merit = 0;  // of what is watched
};

// Compares what is watched, then of top1 and the loss what is not. The first epoch of an image size
// is always better; what is not finite or not defined never is.
bool is_better(const Watch& watch, const EpochFigures& figures, int size, const BestEpoch& best);

void count_epoch(const EarlyStopConfig& config, EarlyStopState& state, const EpochFigures& figures,
                 int size);

bool should_stop(const EarlyStopConfig& config, const EarlyStopState& state);

}  // namespace engine
