// The MPI module as the rest of the program sees it: opened on first use, absent on many machines.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/communicator.h"

namespace engine {

struct MpiPlace {
  int process = 0, processes = 1;  // of MPI_COMM_WORLD
};

// How long an operation may take, and what is known beside it.
struct WireWatch {
  double timeout = 300;                                 // seconds
  std::function<std::optional<std::string>()> trouble;  // polled: why waiting should end
  std::function<void(const std::string&)> abort;        // tells the others that this one gives up
};

// Begins MPI, once in a process; nothing, with the reason in `why`, where the module cannot be
// opened. Throws Error(collective) where MPI fails.
std::optional<MpiPlace> begin_mpi(std::string& why);

// After begin_mpi(). Every process gets process 0's bytes.
void mpi_broadcast(std::span<std::byte> bytes, const WireWatch& watch);
// The wire of a whole run; MPI ends with it.
std::unique_ptr<Wire> make_mpi_wire(const WireWatch& watch);

}  // namespace engine
