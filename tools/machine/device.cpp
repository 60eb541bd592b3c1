#include "tools/machine/device.h"

#include <algorithm>
#include <charconv>
#include <exception>
#include <future>
#include <new>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "tools/cli/list.h"
#include "tools/cli/terminal.h"
#include "tools/machine/cores.h"
#include "tools/machine/nvml.h"
#include "tools/machine/processes.h"

namespace engine {

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
  for (const std::string& part : split_list(text)) {
    gpus.push_back(parse_index(part, "--gpus"));
    require(std::count(gpus.begin(), gpus.end(), gpus.back()) == 1, Failure::usage,
            "--gpus {}: {} stands there twice", text, gpus.back());
  }
  return gpus;
}

// The ranks of this process on CPUs.
int cpu_ranks(const DeviceOptions& o, const Place& place) {
  if (o.launch == RankLaunch::thread || place.launcher == Launcher::none) return o.ranks;
  require(o.ranks == place.local_processes, Failure::usage,
          "--ranks {} --launch process: {} processes run on this host", o.ranks,
          place.local_processes);
  return 1;
}

// A count of GPUs is that of each process, which takes those behind its neighbours' unless it sees
// no others. A list, and every choice with --launch process, is that of the host.
std::vector<int> choose_gpus(const DeviceOptions& o, const Place& place) {
  std::vector<int> gpus = parse_gpus(o.gpus);
  const int present = static_cast<int>(cuda_devices().size());
  const int processes = place.local_processes, number = place.local_process;
  if (processes > 1 && o.launch == RankLaunch::thread && o.gpus.find(',') == std::string::npos) {
    const int count = static_cast<int>(gpus.size());
    if (present > count)
      for (int& gpu : gpus) gpu += number * count;
  } else if (processes > 1) {
    require(gpus.size() % static_cast<size_t>(processes) == 0, Failure::usage,
            "--gpus {}: {} processes on this host cannot share them evenly", o.gpus, processes);
    const auto count = static_cast<ptrdiff_t>(gpus.size()) / processes;
    gpus = {gpus.begin() + number * count, gpus.begin() + (number + 1) * count};
  }
  require(
      present > 0, Failure::usage,
      "--device cuda: no GPU answers here; engine doctor tells what is missing, and --device cpu "
      "computes without");
  const int highest = *std::max_element(gpus.begin(), gpus.end());
  require(highest < present, Failure::usage,
          "--gpus {}: this machine has {}; process {} of {} here would use number {}", o.gpus,
          present, number, processes, highest);
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
  const Place place = read_place(environment_variables());
  require(place.processes == 1, Failure::usage,
          "{} started this as one of {} processes, but it runs in one: of the verbs only train "
          "and scale use several",
          name_of(place.launcher), place.processes);
  require(o.launch == RankLaunch::thread, Failure::usage, "--launch process is for train alone");
  return lone_ranks(o);
}

Ranks plan_ranks(const DeviceOptions& o, const Place& place) {
  if (parse_gpus(o.gpus).size() == 1) load_cuda_code_late();
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
  for (int device : cuda ? choose_gpus(o, place) : std::vector<int>(cpu_ranks(o, place), 0))
    ranks.options.push_back({.device = device, .precision = ranks.precision});
  return ranks;
}

// Ranks that compute on cores have cores of their own, since the kernel would now and then put two
// on the hardware threads of one.
void complete_ranks(Ranks& ranks, const DeviceOptions& o, const CoreShare& share) {
  const int count = ranks.count();
  const auto group = std::make_shared<Group>(count, ranks.wire);
  const int parts = ranks.kind == BackendKind::cuda ? 1 : share.sharing * count;
  const std::vector<LogicalCore> allowed =
      parts > 1 ? describe_cores(share.allowed) : std::vector<LogicalCore>();
  if (parts > static_cast<int>(share.allowed.size()) && group->first() == 0)
    say(paint(fmt::format("{} ranks share the {} cores here: they take turns, and none is fast",
                          parts, share.allowed.size()),
              Colour::yellow, stderr));
  ranks.cores.assign(count, {});
  for (int i = 0; i < count; ++i) {
    ranks.options[i].threads = std::max(1, share.threads / count);
    ranks.options[i].communicator = {group->first() + i, group};
    ranks.cores[i] = cores_of_part(allowed, share.before * count + i, parts);
  }
  const int loading = o.workers > 0                     ? std::max(1, o.workers / share.processes)
                      : ranks.kind == BackendKind::cuda ? share.cores
                                                        : std::max(1, share.cores / 2);
  ranks.workers = std::max(1, loading / count);
}

void check_threads(const Ranks& ranks) {
  constexpr size_t kOthers = 8;  // watchdog, monitor, saving, …
  size_t wanted = kOthers;
  for (const BackendOptions& o : ranks.options)
    wanted += static_cast<size_t>(ranks.workers) + 1 +
              static_cast<size_t>(ranks.kind == BackendKind::cpu ? o.threads : 0);
  std::promise<void> all_started;
  const std::shared_future<void> end = all_started.get_future();
  std::vector<std::jthread> threads;
  try {
    while (threads.size() < wanted) threads.emplace_back([end] { end.wait(); });
  } catch (const std::system_error& error) {
    all_started.set_value();
    fail(Failure::memory,
         "only {} of {} threads can be started ({}): engine doctor shows the limits; --threads and "
         "--workers ask for fewer",
         threads.size(), wanted, error.code().message());
  }
  all_started.set_value();
}

int count_gpus(const DeviceOptions& o) {
  return static_cast<int>(parse_gpus(o.gpus).size());
}

std::vector<std::string> gpu_bus_ids(const Ranks& ranks) {
  std::vector<std::string> ids;
  if (ranks.kind != BackendKind::cuda) return ids;
  const std::vector<GpuInfo> devices = cuda_devices();
  for (const BackendOptions& o : ranks.options) ids.push_back(devices.at(o.device).bus_id);
  return ids;
}

nlohmann::ordered_json describe_ranks(const Ranks& ranks) {
  nlohmann::ordered_json json = {{"ranks", ranks.world()},
                                 {"processes", ranks.world() / ranks.count()},
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
        run_on(ranks.cores[i]);
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
