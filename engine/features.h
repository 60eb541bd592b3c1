// The end of a network: what its last layer reads, and where in the image that comes from.
#pragma once

#include "engine/graph.h"

namespace engine {

struct Head {
  const Conv* linear = nullptr;  // the layer whose output are the logits
  // The average over the whole image that this layer reads, with nothing but dropout in between;
  // null: the network ends in another way.
  const Pool* pool = nullptr;
};

// Points into the graph, which has a loss.
Head head_of(const Graph& graph);

}  // namespace engine
