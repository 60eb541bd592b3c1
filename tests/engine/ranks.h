// Several ranks in threads of one process, training one model on shares of the same batches.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "engine/session.h"

namespace engine::test {

// Runs `body` for every rank in a thread of its own; rethrows what a rank throws first, after the
// others were told.
void run_ranks(int ranks, const std::function<void(const Communicator&)>& body);

using MakeBackend = std::function<std::unique_ptr<Backend>(const Communicator&)>;

// `steps` steps of SGD with momentum in float, norms on running statistics, random gates on;
// `global_batch` images are split evenly. The state after, checked to be the same on every rank.
std::map<std::string, Tensor> train_in_parallel(const Graph& graph, int ranks, int global_batch,
                                                int steps, const MakeBackend& make_backend);

// A small EfficientNet at 32 px, trained by one rank and by `ranks`: CHECKs that the weights agree
// to a relative L2 of 1e-5 and that they moved by more.
void check_data_parallel(int ranks, const MakeBackend& make_backend);

}  // namespace engine::test
