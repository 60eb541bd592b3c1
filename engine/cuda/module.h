// What the CUDA module offers to the program that opens it: one C symbol, a table of functions.
#pragma once

#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/cuda/bench.h"
#include "engine/cuda/trace.h"
#include "engine/cuda_module.h"

namespace engine::cuda {

struct Module {
  Backend* (*make_backend)(const BackendOptions& options);
  std::vector<GpuInfo> (*devices)();
  std::string (*versions)();
  KernelTimes (*time_kernels)(Backend& backend, const KernelBench& bench);
  Ceilings (*measure_ceilings)(Backend& backend, Precision precision);
  std::shared_ptr<Tracer> (*open_trace)();
  DeviceTrace (*trace_step)(Tracer& tracer, Backend& backend, const TraceRun& run);
  void (*in_range)(const std::string& name, const std::function<void()>& body);
};

using ModuleEntry = const Module* (*)();
constexpr const char* kModuleEntry = "engine_cuda_module";

}  // namespace engine::cuda
