// The merge of norms over the ranks on GPUs.
#pragma once

#include <vector>

#include "engine/backend.h"
#include "engine/cuda/nccl.h"
#include "engine/launch.h"

namespace engine::cuda {

// Adds the merges of engine/sync_norms.h to the steps of a program, on `stream`. The launches own
// the memory that they take of `backend`.
void share_norms(std::vector<StepExec>& steps, const Program& program, Backend& backend,
                 GradientSum& ranks, cudaStream_t stream);

}  // namespace engine::cuda
