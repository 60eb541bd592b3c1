// What is asked of a score, whatever the task.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/measures/resampling.h"
#include "tools/score/columns.h"
#include "tools/score/decisions.h"

namespace engine {

struct ScoreOptions {
  std::string part = "val";    // the member of metrics.json
  std::string prefix;          // of the other files' names, for instance "test_"
  int resamples = 1000;        // of the bootstrap; 0: no intervals
  uint64_t seed = 0;           // of its draws
  bool probabilities = false;  // predictions.csv has them also of more than 100 classes
  Decisions decisions = {};    // of the weights
  bool decided_here = false;   // on the very images that are scored, whose figures flatter then
  // In their place: for the images of each fold those of the other folds, as cross_fit() makes
  // them.
  std::vector<FoldDecisions> cross_fitted = {};
  bool calibrated = false;      // all figures are of logits divided by the temperature
  std::vector<Column> by = {};  // of the data set
  ThresholdRule rule = {};      // of several labels, where no thresholds are given
};

// How intervals are drawn, on all cores.
BootstrapOptions drawing_of(const ScoreOptions& options);

}  // namespace engine
