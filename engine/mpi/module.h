// What the MPI module offers to the program that opens it: one C symbol, a table of functions.
#pragma once

#include "engine/communicator.h"
#include "engine/mpi_module.h"

namespace engine::mpi {

struct Module {
  MpiPlace (*begin)();
  void (*broadcast)(std::span<std::byte> bytes, const WireWatch& watch);
  Wire* (*make_wire)(const WireWatch& watch);
};

using ModuleEntry = const Module* (*)();
constexpr const char* kModuleEntry = "engine_mpi_module";

}  // namespace engine::mpi
