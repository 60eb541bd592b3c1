// engine version: the build, its libraries and this machine.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "io/files/json.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

struct VersionOptions {
  bool all = false, json = false;
  void visit(auto& v) {
    v("--all", all, "open the CUDA module too, for its libraries and the GPUs");
    v("--json", json, "one JSON object");
  }
};

struct Cuda {
  std::string versions;  // or why the module does not open
  std::vector<GpuInfo> gpus;
};

Cuda open_cuda() {
  try {
    return {cuda_versions(), cuda_devices()};
  } catch (const Error& error) {
    return {error.what(), {}};
  }
}

void print_as_json(const VersionOptions& options) {
  const Host host = this_host();
  nlohmann::ordered_json json = {{"version", kBuild.version},  {"git", kBuild.git},
                                 {"build", kBuild.type},       {"compiler", kBuild.compiler},
                                 {"cuda_module", kBuild.cuda}, {"cpu", host.cpu},
                                 {"cores", host.cores},        {"os", host.os}};
  for (const auto& [name, version] : library_versions()) json["libraries"][name] = version;
  if (options.all) {
    const Cuda cuda = open_cuda();
    json["cuda"] = cuda.versions;
    json["gpus"] = nlohmann::ordered_json::array();
    for (const GpuInfo& gpu : cuda.gpus)
      json["gpus"].push_back({{"name", gpu.name},
                              {"memory_bytes", gpu.memory},
                              {"compute_capability", fmt::format("{}.{}", gpu.major, gpu.minor)}});
  }
  print_to_stdout(print_json(json, 2) + '\n');
}

void print_text(const VersionOptions& options) {
  const Host host = this_host();
  print_to_stdout(fmt::format("engine {} ({}, {}, {}, {})\n", kBuild.version, kBuild.git,
                              kBuild.type, kBuild.compiler,
                              kBuild.cuda ? "with the CUDA module" : "CPU only"));
  for (const auto& [name, version] : library_versions())
    print_to_stdout(fmt::format("  {:<14} {}\n", name, version));
  print_to_stdout(fmt::format("{}, {} cores, {:.1f} GiB, {}, Linux {}\n", host.cpu, host.cores,
                              host.memory_gib, host.os, host.kernel));
  if (!options.all) return;
  const Cuda cuda = open_cuda();
  print_to_stdout(fmt::format("{}\n", cuda.versions));
  for (const GpuInfo& gpu : cuda.gpus)
    print_to_stdout(fmt::format("  {}, {:.0f} GiB, compute capability {}.{}\n", gpu.name,
                                static_cast<double>(gpu.memory) / 0x1p30, gpu.major, gpu.minor));
}

}  // namespace

int version(const Command& command) {
  const auto options = parse_options<VersionOptions>(command);
  if (!options) return 0;
  if (options->json)
    print_as_json(*options);
  else
    print_text(*options);
  return 0;
}

}  // namespace engine
