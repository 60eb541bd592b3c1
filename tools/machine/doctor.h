// What this machine lacks or limits that training would trip over.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "engine/cuda_module.h"

namespace engine {

// What is known of a machine. Sizes are in bytes; the largest value of an integer means no limit.
struct Machine {
  bool cuda_built = false;
  std::string cuda_error;     // why the CUDA module does not open; empty: it does
  std::string cuda_versions;  // of its libraries
  std::string driver;         // empty: no NVIDIA driver, or NVML does not answer
  std::vector<GpuInfo> gpus;
  int cores = 0, host_cores = 0;  // in the affinity mask; online
  double quota = 0;               // cores that the control group grants; 0: no quota
  size_t available_memory = 0, memory_limit = 0;  // 0: unknown
  size_t shared_memory = 0;                       // free in /dev/shm
  size_t open_files = 0, locked_memory = 0;       // limits
  size_t processes = 0;                           // that may still be started, threads included
  size_t file_size = 0;                           // of one file, at most
  size_t disk = 0, files = 0;        // free in the current folder: bytes, and files that fit
  std::optional<bool> clock_is_set;  // by a time server; nothing: the system does not say
  double clock_behind = 0;           // seconds, compared with the program's own file
};
Machine this_machine();

struct Finding {
  enum class Kind { good, warning, failure };
  Kind kind = Kind::good;
  std::string what, detail;  // "open files"; "1024, at least 4096 are wanted: ulimit -n 4096"
};
std::vector<Finding> examine(const Machine& machine);

}  // namespace engine
