#include "tools/scale/facts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/files/json.h"
#include "tools/bench/step.h"
#include "tools/machine/environment.h"
#include "tools/machine/nvml.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

std::string versions(const Study& study, const std::string& driver) {
  std::string text = fmt::format("engine {} ({}), {}", kBuild.version, kBuild.git, kBuild.compiler);
  if (study.device == Device::cuda)
    return text + ", " + cuda_versions() + (driver.empty() ? "" : ", driver " + driver);
  for (const auto& [name, version] : library_versions())
    if (name == "oneDNN") text += fmt::format(", {} {}", name, version);
  return text;
}

void add_gpus(const Study& study, size_t gpus, Facts& facts, std::string& driver) {
  const std::vector<GpuInfo> present = cuda_devices();
  std::vector<std::string> names, ids, links;
  for (size_t i = 0; i < gpus; ++i) {
    names.push_back(
        fmt::format("{} ({:.0f} GiB)", present[i].name, double(present[i].memory) / 0x1p30));
    ids.push_back(present[i].bus_id);
  }
  facts.emplace_back("devices", counted(names));
  const auto nvml = Nvml::open(ids);
  if (!nvml) return;
  driver = nvml->driver();
  for (size_t a = 0; a < nvml->devices(); ++a)
    for (size_t b = a + 1; b < nvml->devices(); ++b) links.push_back(nvml->link(a, b));
  if (!links.empty() && study.ranks.back() > 1) facts.emplace_back("links", describe_links(links));
}

Facts machine_facts(const Study& study, size_t devices) {
  const Host host = this_host();
  Facts facts = {
      {"host", host.name},
      {"platform", fmt::format("{}, Linux {}", host.os, host.kernel)},
      {"processor", fmt::format("{}, {} socket{}, {} core{} for this process, {:.0f} GiB", host.cpu,
                                host.sockets, host.sockets == 1 ? "" : "s", host.cores,
                                host.cores == 1 ? "" : "s", host.memory_gib)}};
  std::string driver;
  if (study.device == Device::cuda) add_gpus(study, devices, facts, driver);
  facts.emplace_back("versions", versions(study, driver));
  return facts;
}

Facts model_facts(const Study& study, int classes) {
  Facts facts;
  for (const std::string& model : study.models) {
    const StepBench bench =
        with_defaults({.model = model, .image_size = study.image_size, .classes = classes});
    const int64_t parameters = graph_of(bench).trained_parameters();
    facts.emplace_back(
        model, fmt::format("{} classes, {} px, {} parameters, {:.2f} MiB in fp32", bench.classes,
                           bench.image_size, parameters, double(parameters) * 4 / 0x1p20));
  }
  return facts;
}

Json to_json(const Facts& facts) {
  Json json = Json::object();
  for (const auto& [name, value] : facts) json[name] = value;
  return json;
}

}  // namespace

std::string describe_links(const std::vector<std::string>& links) {
  std::map<std::string, int> counts;
  for (const std::string& link : links) ++counts[link];
  if (counts.size() == 1) return counts.begin()->first;
  std::vector<std::string> parts;
  for (const auto& [name, count] : counts)
    parts.push_back(fmt::format("{} pair{}: {}", count, count == 1 ? "" : "s", name));
  return fmt::format("{}", fmt::join(parts, ", "));
}

StudyFacts facts_of(const Study& study, const std::vector<std::string>& hardware, int classes,
                    const std::string& processes) {
  StudyFacts facts{.machine = machine_facts(study, hardware.size()),
                   .models = model_facts(study, classes),
                   .unit = study.device == Device::cuda  ? "GPU"
                           : study.threads_per_rank == 1 ? "core"
                                                         : "rank",
                   .fingerprint = {}};
  if (!processes.empty()) facts.machine.insert(facts.machine.begin() + 1, {"processes", processes});
  const Json fingerprint = {{"host", this_host().name},
                            {"device", hardware.front()},
                            {"version", fmt::format("{} ({})", kBuild.version, kBuild.git)},
                            {"classes", classes},
                            {"steps", study.steps},
                            {"warmup", study.warmup},
                            {"conv", std::string(name_of(study.conv))},
                            {"memory", std::string(name_of(study.memory))},
                            {"workspace", study.workspace},
                            {"deterministic", study.deterministic}};
  facts.fingerprint = print_json(fingerprint);
  return facts;
}

void check_study(const std::filesystem::path& folder, const StudyFacts& facts) {
  const std::filesystem::path file = folder / "study.json";
  if (!std::filesystem::exists(file)) return;
  const Json study = parse_json<Json>(as_text(read_file(file)), Failure::data, file.string()),
             now = parse_json<Json>(facts.fingerprint);
  try {
    const Json& before = study.at("fingerprint");
    for (const auto& [name, value] : now.items())
      require(before.at(name) == value, Failure::usage,
              "--resume: {} was measured with {} {}, this is {}", folder.string(), name,
              print_json(before.at(name)), print_json(value));
  } catch (const nlohmann::json::exception& error) {
    fail(Failure::data, "{}: {}", file.string(), error.what());
  }
}

void write_study(const std::filesystem::path& folder, const StudyFacts& facts) {
  const Json json = {{"machine", to_json(facts.machine)},
                     {"models", to_json(facts.models)},
                     {"unit", facts.unit},
                     {"fingerprint", parse_json<Json>(facts.fingerprint)}};
  write_file_atomically(folder / "study.json", print_json(json, 2) + '\n');
}

}  // namespace engine
