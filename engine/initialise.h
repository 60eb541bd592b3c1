// How a parameter starts, by the rules of the reference implementations.
#pragma once

#include "engine/graph.h"

namespace engine {

// Returns the value in the reference's layout. It is drawn from (seed, name) and depends on no
// other parameter.
Tensor initial_value(const Graph& graph, int parameter, uint64_t seed);

}  // namespace engine
