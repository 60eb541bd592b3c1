// What all ranks of a run must have alike, and is compared.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "engine/communicator.h"
#include "engine/graph.h"
#include "engine/tensor.h"
#include "tools/cli/options.h"
#include "tools/machine/device.h"
#include "tools/train/checkpoint.h"

namespace engine {

// Compares the trained parameters of all ranks by their digests; `state` is Session::state() and
// may be empty in a world of one. Running statistics are each rank's own. Throws Error(collective),
// which names the ranks that differ from rank 0. Every rank calls it.
void check_equal_weights(const Communicator& communicator, const Graph& graph,
                         const std::map<std::string, Tensor>& state, int64_t step);

// Compares what the processes are about to do and from where they go on. Throws Error(usage), which
// names a process that differs from process 0, and in what.
void check_equal_runs(const Ranks& ranks, const RunIdentity& identity, const Flags& flags,
                      const std::optional<Checkpoint>& checkpoint);

}  // namespace engine
