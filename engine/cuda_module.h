// The CUDA module as the rest of the program sees it: opened on first use, absent on many machines.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/cuda/bench.h"

namespace engine {

struct GpuInfo {
  std::string name;
  size_t memory = 0;         // bytes in all
  int major = 0, minor = 0;  // compute capability
  std::string bus_id;        // on the PCI bus: "0000:1B:00.0"
};

// Both throw Error(usage), saying what is missing, where the module cannot be opened.
std::vector<GpuInfo> cuda_devices();  // empty: no GPU, or no driver
std::string cuda_versions();          // "CUDA 13.0, cuDNN 9.19.0, cuBLASLt 13.1.0, NCCL 2.28.9"

// `backend` is one that make_cuda_backend() made.
KernelTimes time_cuda_kernels(Backend& backend, const KernelBench& bench);

}  // namespace engine
