#include "engine/mpi_module.h"

#include "engine/error.h"
#include "engine/mpi/module.h"
#include "engine/open_module.h"

namespace engine {

namespace {

struct Opened {
  const mpi::Module* module = nullptr;
  std::string why;  // it is not there
};

// MPI's own plug-ins look for their library among all that are loaded.
Opened open_mpi() {
  const OpenedModule opened =
      open_module("libengine_mpi.so", mpi::kModuleEntry, ModuleNames::shared);
  if (!opened.entry) return {nullptr, opened.why};
  return {reinterpret_cast<mpi::ModuleEntry>(opened.entry)(), ""};
}

const Opened& opened() {
  static const Opened once = open_mpi();
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
