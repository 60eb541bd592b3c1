// What a run was made with: the build and the machine, for env.json and `engine version`.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine {

struct BuildInfo {
  const char* version;   // "0.1.0"
  const char* git;       // commit, "-dirty" with local changes; "unknown" outside a repository
  const char* type;      // "Release"
  const char* compiler;  // "GNU 12.2.0"
  bool cuda;             // whether the CUDA module was built
};
extern const BuildInfo kBuild;

struct Host {
  std::string name, os, kernel, cpu;
  int cores = 0;    // that this process may use
  int sockets = 0;  // with a processor; 1 if the system does not say
  double memory_gib = 0;
};
Host this_host();

// "2 x NVIDIA H200, NVIDIA A100": names of devices, in order, equal ones counted.
std::string counted(std::span<const std::string> names);

// Name and version of each library the program was built with.
std::vector<std::pair<std::string, std::string>> library_versions();

// The variables of Slurm, torchrun, Open MPI, CUDA, NCCL and OpenMP that a launcher or a user set.
std::vector<std::pair<std::string, std::string>> launch_variables();

// A file that comes with the program: share/engine/NAME beside its bin folder, built and installed
// alike.
std::filesystem::path shared_file(std::string_view name);

}  // namespace engine
