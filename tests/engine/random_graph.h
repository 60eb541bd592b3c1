// Graphs drawn at random, for what must hold of any graph.
#pragma once

#include <cstdint>

#include "engine/graph.h"

namespace engine::test {

// A few layers of any kind over a growing set of values; what nobody has read in the end is pooled
// and summed into the logits, so that every gradient is wanted. `residuals` are norms that a sum
// alone reads, some of them behind ReLU. The same arguments give the same graph.
Graph random_graph(uint64_t seed, bool residuals);

}  // namespace engine::test
