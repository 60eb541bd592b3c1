// Where a study runs: the processes that a launcher has started, what each has, and on how many
// hosts they are.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "tools/machine/device.h"

namespace engine {

// A process of a study, as it describes itself to the others.
struct Standing {
  std::string host;
  int local_process = 0;             // its place among those of its host
  bool knows_hosts = false;          // the launcher tells that place; else it is guessed
  std::vector<std::string> devices;  // that its ranks compute on
  std::vector<int> cores;            // that it may run on
  size_t free_bytes = 0;             // of the fullest of its devices
};

// What every process brings, by process; each calls this.
std::vector<Standing> gather_standings(const Ranks& joined, const Standing& mine);

// On how many hosts they are: as many as have a first process where the launcher tells which these
// are, else as many as have a name of their own.
int count_hosts(std::span<const Standing> processes);
std::string host_names(std::span<const Standing> processes);    // each once: "a, b"
std::string device_names(std::span<const Standing> processes);  // likewise

// Cores that process `mine` has, shared with the other processes of its host.
int cores_of(std::span<const Standing> processes, int mine);

// What is free of the fullest device. Processes of a host share its memory, not that of its GPUs.
size_t least_free_bytes(std::span<const Standing> processes, BackendKind kind);

// "4 by Open MPI on 2 hosts (a, b)"
std::string describe_processes(std::span<const Standing> processes);

}  // namespace engine
