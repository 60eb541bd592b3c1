// All runs of a cross-validation, one after the other.
#pragma once

#include "tools/train/train_options.h"

namespace engine {

// What engine train does with --folds K and without --fold: the runs of the folds, each a run of
// its own in OUT/fold_I, and what engine folds makes of them in OUT. Returns the exit code.
int train_folds(const Command& command, const TrainOptions& options);

}  // namespace engine
