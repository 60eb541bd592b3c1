// The CUDA module as the rest of the program sees it: opened on first use, absent on many machines.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/cuda/bench.h"
#include "engine/cuda/trace.h"

namespace engine {

struct GpuInfo {
  std::string name;
  size_t memory = 0;         // bytes in all
  int major = 0, minor = 0;  // compute capability
  std::string bus_id;        // on the PCI bus: "0000:1B:00.0"
};

// Libraries bring hundreds of megabytes of code. It is loaded when the module is opened, or, asked
// for before that, when it is used first: a process of one rank then starts two seconds earlier. In
// one of several ranks a late load could wait for a collective that waits for the loader.
void load_cuda_code_late();

// Both throw Error(usage), saying what is missing, where the module cannot be opened.
std::vector<GpuInfo> cuda_devices();  // empty: no GPU, or no driver
std::string cuda_versions();          // "CUDA 13.0, cuDNN 9.19.0, cuBLASLt 13.1.0, NCCL 2.28.9"

// `backend` is one that make_cuda_backend() made.
KernelTimes time_cuda_kernels(Backend& backend, const KernelBench& bench);
Ceilings cuda_ceilings(Backend& backend, Precision precision);
// See engine/cuda/trace.h.
std::shared_ptr<cuda::Tracer> open_cuda_trace();
DeviceTrace trace_cuda_step(cuda::Tracer& tracer, Backend& backend, const TraceRun& run);
void in_cuda_range(const std::string& name, const std::function<void()>& body);

}  // namespace engine
