#include "tools/machine/device.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "tools/machine/nvml.h"

namespace engine {

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

namespace {

bool a_gpu_answers() {
  try {
    return !cuda_devices().empty();
  } catch (const Error&) {
    return false;
  }
}

int parse_index(std::string_view text, std::string_view flag) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size() && value >= 0, Failure::usage,
          "{}: '{}' is no device number", flag, text);
  return value;
}

// "2" is the first two; "0,3" these two.
std::vector<int> parse_gpus(const std::string& text) {
  std::vector<int> gpus;
  if (text.find(',') == std::string::npos) {
    const int count = parse_index(text, "--gpus");
    require(count > 0, Failure::usage, "--gpus 0: at least one");
    for (int g = 0; g < count; ++g) gpus.push_back(g);
    return gpus;
  }
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    gpus.push_back(parse_index(std::string_view(text).substr(at, comma - at), "--gpus"));
    require(std::count(gpus.begin(), gpus.end(), gpus.back()) == 1, Failure::usage,
            "--gpus {}: {} stands there twice", text, gpus.back());
    at = comma + 1;
  }
  return gpus;
}

BackendKind choose_kind(Device device) {
  switch (device) {
    case Device::cpu: return BackendKind::cpu;
    case Device::cuda: return BackendKind::cuda;
    case Device::reference: return BackendKind::reference;
    case Device::automatic: break;
  }
  return a_gpu_answers() ? BackendKind::cuda : BackendKind::cpu;
}

}  // namespace

Ranks choose_ranks(const DeviceOptions& o) {
  Ranks ranks{.kind = choose_kind(o.device)};
  const bool cuda = ranks.kind == BackendKind::cuda;
  ranks.precision = o.precision != "auto" ? parse_precision(o.precision)
                    : cuda                ? Precision::fp16
                                          : Precision::fp32;
  require(ranks.kind != BackendKind::cpu || ranks.precision == Precision::fp32, Failure::usage,
          "--precision {} needs a GPU: the CPU computes in fp32", o.precision);
  require(cuda || o.gpus == "1", Failure::usage, "--gpus {} needs --device cuda", o.gpus);
  require(!cuda || o.ranks == 1, Failure::usage, "--ranks {} is for the CPU; --gpus chooses GPUs",
          o.ranks);

  std::vector<int> devices(o.ranks, 0);
  if (cuda) {
    devices = parse_gpus(o.gpus);
    const int present = static_cast<int>(cuda_devices().size());
    const int highest = *std::max_element(devices.begin(), devices.end());
    require(highest < present, Failure::usage, "--gpus {}: this machine has {}", o.gpus, present);
  }
  const int count = static_cast<int>(devices.size()), cores = available_cores();
  const int threads = o.threads > 0 ? o.threads : cores;
  const auto group = std::make_shared<Group>(count);
  for (int rank = 0; rank < count; ++rank)
    ranks.options.push_back({.device = devices[rank],
                             .threads = std::max(1, threads / count),
                             .precision = ranks.precision,
                             .communicator = {rank, group}});
  const int loading = o.workers > 0 ? o.workers : cuda ? cores : std::max(1, cores / 2);
  ranks.workers = std::max(1, loading / count);
  return ranks;
}

std::vector<std::string> gpu_bus_ids(const Ranks& ranks) {
  std::vector<std::string> ids;
  if (ranks.kind != BackendKind::cuda) return ids;
  const std::vector<GpuInfo> devices = cuda_devices();
  for (const BackendOptions& o : ranks.options) ids.push_back(devices.at(o.device).bus_id);
  return ids;
}

nlohmann::ordered_json describe_ranks(const Ranks& ranks) {
  nlohmann::ordered_json json = {{"ranks", ranks.count()},
                                 {"precision", std::string(name_of(ranks.precision))}};
  if (ranks.kind != BackendKind::cuda) return json;
  const std::vector<GpuInfo> devices = cuda_devices();
  for (const BackendOptions& o : ranks.options)
    json["devices"].push_back(
        {{"name", devices.at(o.device).name},
         {"bus_id", devices.at(o.device).bus_id},
         {"memory_gib", static_cast<double>(devices.at(o.device).memory) / 0x1p30}});
  json["cuda"] = cuda_versions();
  if (const auto nvml = Nvml::open(gpu_bus_ids(ranks))) json["driver"] = nvml->driver();
  return json;
}

namespace {

// Rethrows what ended a rank. Among several ranks, one that tells no more than that something went
// wrong is a rank that is lost.
[[noreturn]] void rethrow(const std::exception_ptr& error, const Communicator& c) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    if (c.ranks() == 1 || e.kind != Failure::internal) throw;
    fail(Failure::collective, "rank {}: {}", c.rank, e.what());
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    if (c.ranks() == 1) throw;
    fail(Failure::collective, "rank {}: {}", c.rank, e.what());
  }
}

}  // namespace

void on_every_rank(const Ranks& ranks, const std::function<void(int i)>& body) {
  std::vector<std::exception_ptr> errors(ranks.count());
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < ranks.count(); ++i)
      threads.emplace_back([&, i] {
        try {
          body(i);
        } catch (const std::exception& error) {
          errors[i] = std::current_exception();
          const auto* ours = dynamic_cast<const Error*>(&error);
          const Communicator& c = ranks.options[i].communicator;
          if (!ours || ours->kind != Failure::preempted)
            c.group->abort(fmt::format("rank {}: {}", c.rank, error.what()));
        }
      });
  }
  int first = kNone;
  for (int i = 0; i < ranks.count(); ++i) {
    if (!errors[i]) continue;
    try {
      std::rethrow_exception(errors[i]);
    } catch (const Error& e) {
      if (first == kNone || e.kind != Failure::collective) first = i;  // the cause, not its echo
    } catch (...) {
      first = i;
    }
  }
  if (first != kNone) rethrow(errors[first], ranks.options[first].communicator);
}

std::unique_ptr<Backend> make_backend(BackendKind kind, const BackendOptions& options) {
  switch (kind) {
    case BackendKind::cpu: return make_cpu_backend(options);
    case BackendKind::cuda: return make_cuda_backend(options);
    case BackendKind::reference: return make_reference_backend(options);
  }
  return nullptr;
}

}  // namespace engine
