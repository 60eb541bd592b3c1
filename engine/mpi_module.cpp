#include "engine/mpi_module.h"

#include <dlfcn.h>

#include <filesystem>

#include "engine/error.h"
#include "engine/mpi/module.h"

namespace engine {

namespace {

constexpr const char* kFile = "libengine_mpi.so";

struct Opened {
  const mpi::Module* module = nullptr;
  std::string why;  // it is not there
};

// As the CUDA module: in lib/ beside the bin/ of this program, or right beside the program. MPI's
// own plug-ins look for their library among all that are loaded.
Opened open_module() {
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const auto& folder : {here.parent_path() / "lib", here}) {
    if (!std::filesystem::exists(folder / kFile)) continue;
    void* library = dlopen((folder / kFile).c_str(), RTLD_NOW | RTLD_GLOBAL);
    void* entry = library ? dlsym(library, mpi::kModuleEntry) : nullptr;
    if (!entry) return {nullptr, dlerror()};
    return {reinterpret_cast<mpi::ModuleEntry>(entry)(), ""};
  }
  return {nullptr, fmt::format("{} is neither in {} nor in {}: built without MPI?", kFile,
                               (here.parent_path() / "lib").string(), here.string())};
}

// Never closed: what MPI leaves behind at exit refers to it.
const Opened& opened() {
  static const Opened once = open_module();
  return once;
}

}  // namespace

std::optional<MpiPlace> begin_mpi(std::string& why) {
  if (!opened().module) {
    why = opened().why;
    return std::nullopt;
  }
  return opened().module->begin();
}

void mpi_broadcast(std::span<std::byte> bytes, const WireWatch& watch) {
  opened().module->broadcast(bytes, watch);
}

std::unique_ptr<Wire> make_mpi_wire(const WireWatch& watch) {
  return std::unique_ptr<Wire>(opened().module->make_wire(watch));
}

}  // namespace engine
