// Batches of a data set for the steps that are measured: read, decoded, augmented as in training.
#pragma once

#include "io/data/dataset.h"
#include "io/images/preprocess.h"
#include "tools/bench/step.h"

namespace engine {

// A loader for each rank, with `threads` threads. Every rank draws from the whole set, in an order
// of its own, so that its batches are of the same size whatever the number of ranks. Error(data) if
// the set has fewer images than the batch of a rank. `data` must outlive the feeds.
MakeFeed loader_feed(const Dataset& data, const Preprocess& preprocess, const StepBench& bench,
                     int threads);

}  // namespace engine
