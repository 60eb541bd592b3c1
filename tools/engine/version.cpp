// engine version: the build, its libraries and this machine.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/engine/environment.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct VersionOptions {
  bool json = false;
  void visit(auto& v) { v("--json", json, "one JSON object"); }
};

}  // namespace

int version(const Command& command) {
  const auto options = parse_options<VersionOptions>(command);
  if (!options) return 0;
  const Host host = this_host();
  if (options->json) {
    nlohmann::ordered_json json = {{"version", kBuild.version},
                                   {"git", kBuild.git},
                                   {"build", kBuild.type},
                                   {"compiler", kBuild.compiler},
                                   {"cuda", kBuild.cuda}};
    for (const auto& [name, version] : library_versions()) json["libraries"][name] = version;
    print_to_stdout(json.dump(2) + '\n');
    return 0;
  }
  fmt::print("engine {} ({}, {}, {}, {})\n", kBuild.version, kBuild.git, kBuild.type,
             kBuild.compiler, kBuild.cuda ? "with the CUDA module" : "CPU only");
  for (const auto& [name, version] : library_versions()) fmt::print("  {:<14} {}\n", name, version);
  fmt::print("{}, {} cores, {:.1f} GiB, {}, Linux {}\n", host.cpu, host.cores, host.memory_gib,
             host.os, host.kernel);
  return 0;
}

}  // namespace engine
