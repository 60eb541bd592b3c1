// Batch norms over the images of all ranks, as torch.nn.SyncBatchNorm: to the steps of a program
// come launches by which the ranks merge mean and variance of every slice that norms read, after
// the forward that writes it, and its k0 and k1, before the backward that reads its gradient. A
// slice is merged once per direction, however many norms read it. dgamma and dbeta stay the sums of
// one rank; they are added up with the gradients.
#pragma once

#include <functional>
#include <vector>

#include "engine/backend.h"

namespace engine {

// A slice that a step writes and norms read.
template <class R>
struct NormedSlice {
  int step = 0;  // which writes it
  int channels = 0;
  R *mean = nullptr, *var = nullptr, *k0 = nullptr, *k1 = nullptr;  // (channels,)
};

// What a backend enqueues for a slice: this rank's values are replaced by those of all ranks.
struct SliceMerge {
  std::function<void()> statistics, sums;
};

// Whether the ranks of a program share the statistics of its batches.
bool shares_statistics(const Program& program, const PrepareOptions& options, int ranks);

// In the order of the steps.
template <class R>
std::vector<NormedSlice<R>> normed_slices(const Program& program);

// Adds the launches to `steps`, which is empty in a batch of 0: a rank without images takes part in
// every merge.
template <class R>
void add_merges(std::vector<StepExec>& steps, const Program& program, int ranks,
                const std::function<SliceMerge(const NormedSlice<R>&)>& merge_of);

// The merge of ranks in host memory.
template <class R>
SliceMerge merge_in_host_memory(const Communicator& communicator, const NormedSlice<R>& slice,
                                int images);

}  // namespace engine
