// What the CUDA module measures of its kernels and library calls, one at a time.
#pragma once

#include <string>
#include <vector>

#include "engine/plan.h"

namespace engine {

struct KernelBench {
  int device = 0;
  PlanOptions plan;           // of a training step; automatic depthwise convolutions count as fused
  std::vector<int> left_out;  // steps not to measure
  int runs = 20;              // of each, every one on a cold L2
};

struct KernelTime {
  std::string kernel;  // the launcher, or the library and what it computes
  std::string shape;
  int count = 0;                // launches in a training step
  double bytes = 0, flops = 0;  // of one launch: operands read once, results written once
  std::vector<float> ms;        // one per run
};

struct KernelTimes {
  std::string gpu;
  double copy_bytes_per_s = 0;     // device copy of 512 MiB, read and write counted
  double product_flops_per_s = 0;  // 8192³ product of random numbers in the plan's precision
  std::vector<KernelTime> kernels;
};

namespace cuda {

// Runs the ceilings, then every kernel and library call of one training step.
KernelTimes time_kernels(const Graph& graph, const KernelBench& bench);

}  // namespace cuda
}  // namespace engine
