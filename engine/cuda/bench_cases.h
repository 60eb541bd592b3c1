// Every launch of a training step as a case to measure: what it moves and computes, and how to run
// it alone. Launches of one kernel and shape are one case.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/cuda/context.h"
#include "kernels/kernels.h"

namespace engine::cuda {

// Declared: each operand read once, each result written once; flops of products and convolutions.
struct Cost {
  double bytes = 0, flops = 0;
};

struct KernelCase {
  std::string kernel, shape;
  int count = 0;  // launches in a training step
  Cost cost;
  std::function<void()> run;
};

// `norms`: the table of update_running, in device memory. The optimizer's cases come first: they
// want gradients that no other case has touched.
struct NormEntries {
  const kernels::RunningNorm* entries;
  int count, max_channels;
};

std::vector<KernelCase> kernel_cases(Cuda& gpu, const Program& program, const NormEntries& norms,
                                     const std::vector<int>& left_out);

}  // namespace engine::cuda
