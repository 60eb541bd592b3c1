#include "tools/scale/site.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/files/json.h"
#include "tools/machine/cores.h"
#include "tools/machine/launcher.h"
#include "tools/machine/processes.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const Standing& s) {
  return {{"host", s.host},
          {"local_process", s.local_process},
          {"knows_hosts", s.knows_hosts},
          {"devices", s.devices},
          {"cores", s.cores},
          {"free_bytes", s.free_bytes}};
}

Standing from_json(const Json& json) {
  return {.host = json.at("host"),
          .local_process = json.at("local_process"),
          .knows_hosts = json.at("knows_hosts"),
          .devices = json.at("devices"),
          .cores = json.at("cores"),
          .free_bytes = json.at("free_bytes")};
}

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::ranges::find(names, name) == names.end()) names.push_back(name);
}

std::vector<std::string> hosts_of(std::span<const Standing> processes) {
  std::vector<std::string> names;
  for (const Standing& s : processes) add_once(names, s.host);
  return names;
}

}  // namespace

std::vector<Standing> gather_standings(const Ranks& joined, const Standing& mine) {
  std::vector<Standing> all;
  for (const std::string& text : from_every_process(joined, print_json(to_json(mine))))
    all.push_back(from_json(parse_json<Json>(text)));
  return all;
}

int count_hosts(std::span<const Standing> processes) {
  if (std::ranges::all_of(processes, &Standing::knows_hosts))
    return static_cast<int>(std::ranges::count(processes, 0, &Standing::local_process));
  return static_cast<int>(hosts_of(processes).size());
}

std::string host_names(std::span<const Standing> processes) {
  return fmt::format("{}", fmt::join(hosts_of(processes), ", "));
}

std::string device_names(std::span<const Standing> processes) {
  std::vector<std::string> names;
  for (const Standing& s : processes)
    for (const std::string& device : s.devices) add_once(names, device);
  return fmt::format("{}", fmt::join(names, ", "));
}

int cores_of(std::span<const Standing> processes, int mine) {
  std::vector<std::vector<int>> neighbours;
  int place = 0;
  for (int p = 0; p < static_cast<int>(processes.size()); ++p) {
    if (p == mine) place = static_cast<int>(neighbours.size());
    if (processes[p].host == processes[mine].host) neighbours.push_back(processes[p].cores);
  }
  return share_of_cores(neighbours, place);
}

size_t least_free_bytes(std::span<const Standing> processes, BackendKind kind) {
  size_t least = SIZE_MAX;
  for (const Standing& s : processes) {
    const auto sharing =
        kind == BackendKind::cuda ? 1 : std::ranges::count(processes, s.host, &Standing::host);
    least = std::min(least, s.free_bytes / static_cast<size_t>(sharing));
  }
  return least;
}

std::string describe_processes(std::span<const Standing> processes) {
  const int hosts = count_hosts(processes);
  return fmt::format("{} by {} on {} host{} ({})", processes.size(),
                     name_of(read_place(environment_variables()).launcher), hosts,
                     hosts == 1 ? "" : "s", host_names(processes));
}

}  // namespace engine
