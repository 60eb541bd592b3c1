// How a parameter starts, by the rules of the reference implementations.
#pragma once

#include "engine/graph.h"

namespace engine {

// In the reference's layout; drawn from (seed, name), so it depends on no other parameter.
Tensor initial_value(const Graph& graph, int parameter, uint64_t seed);

}  // namespace engine
