#include "engine/cuda_module.h"

#include <cstdlib>
#include <memory>

#include "engine/backend.h"
#include "engine/cuda/module.h"
#include "engine/error.h"
#include "engine/open_module.h"

namespace engine {

namespace {

// The driver reads it when it is called first.
void choose_loading(const char* loading) {
  setenv("CUDA_MODULE_LOADING", loading, 0);
}

const cuda::Module* open_cuda() {
  choose_loading("EAGER");  // unless something else was chosen
  const OpenedModule opened = open_module("libengine_cuda.so", cuda::kModuleEntry);
  require(opened.entry, Failure::usage, "--device cuda: {}", opened.why);
  return reinterpret_cast<cuda::ModuleEntry>(opened.entry)();
}

const cuda::Module& opened_module() {
  static const cuda::Module* const opened = open_cuda();
  return *opened;
}

}  // namespace

void load_cuda_code_late() {
  choose_loading("LAZY");
}

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  return std::unique_ptr<Backend>(opened_module().make_backend(options));
}

std::vector<GpuInfo> cuda_devices() {
  return opened_module().devices();
}

std::string cuda_versions() {
  return opened_module().versions();
}

KernelTimes time_cuda_kernels(Backend& backend, const KernelBench& bench) {
  return opened_module().time_kernels(backend, bench);
}

Ceilings cuda_ceilings(Backend& backend, Precision precision) {
  return opened_module().measure_ceilings(backend, precision);
}

std::shared_ptr<cuda::Tracer> open_cuda_trace() {
  return opened_module().open_trace();
}

DeviceTrace trace_cuda_step(cuda::Tracer& tracer, Backend& backend, const TraceRun& run) {
  return opened_module().trace_step(tracer, backend, run);
}

void in_cuda_range(const std::string& name, const std::function<void()>& body) {
  opened_module().in_range(name, body);
}

}  // namespace engine
