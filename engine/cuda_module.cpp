#include "engine/cuda_module.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "engine/backend.h"
#include "engine/cuda/module.h"
#include "engine/error.h"

namespace engine {

namespace {

constexpr const char* kFile = "libengine_cuda.so";

// The module is in lib/ beside the bin/ of this program, or right beside the program: so it is in
// the build tree, in an installation and in a bundle.
std::filesystem::path find_module() {
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const auto& folder : {here.parent_path() / "lib", here})
    if (std::filesystem::exists(folder / kFile)) return folder / kFile;
  fail(Failure::usage, "--device cuda: {} is neither in {} nor in {}: built without CUDA?", kFile,
       (here.parent_path() / "lib").string(), here.string());
}

// Code is loaded when the module is opened, not by the first launch: with several ranks in one
// process a late load waits for a collective that waits for the loader.
const cuda::Module* open_module() {
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  void* library = dlopen(find_module().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(Failure::usage, "--device cuda: {}", dlerror());
  void* entry = dlsym(library, cuda::kModuleEntry);
  if (!entry) fail(Failure::usage, "--device cuda: {}", dlerror());
  return reinterpret_cast<cuda::ModuleEntry>(entry)();
}

// The module is never closed: what its libraries leave behind at exit refers to it.
const cuda::Module& opened_module() {
  static const cuda::Module* const opened = open_module();
  return *opened;
}

}  // namespace

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
