// Where a verb computes: the flags, and the ranks and backends that they make.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/wire/lifeline.h"
#include "tools/cli/options.h"

namespace engine {

enum class Device { automatic, cpu, cuda, reference };
inline constexpr Choice<Device> kDevices[] = {{"auto", Device::automatic},
                                              {"cpu", Device::cpu},
                                              {"cuda", Device::cuda},
                                              {"reference", Device::reference}};
inline constexpr Choice<ConvForm> kConvForms[] = {
    {name_of(ConvForm::automatic), ConvForm::automatic},
    {name_of(ConvForm::fused), ConvForm::fused},
    {name_of(ConvForm::library), ConvForm::library}};
inline constexpr Choice<MemoryUse> kMemoryUses[] = {{name_of(MemoryUse::fast), MemoryUse::fast},
                                                    {name_of(MemoryUse::lean), MemoryUse::lean}};

// Of the verbs that train.
void visit_memory(auto& v, MemoryUse& memory) {
  v("--memory USE", memory,
    "lean: the outputs of some convolutions are computed again instead of kept; it takes less "
    "memory and longer steps, and leaves the same bits",
    kMemoryUses, kMayChange);
}

// Whether the ranks of a command are threads of one process or processes of their own.
enum class RankLaunch { thread, process };
inline constexpr Choice<RankLaunch> kRankLaunches[] = {{"thread", RankLaunch::thread},
                                                       {"process", RankLaunch::process}};

struct DeviceOptions {
  Device device = Device::automatic;
  std::string precision = "auto", gpus = "1";
  int ranks = 1, threads = 0, workers = 0, workspace = 256;
  ConvForm conv = ConvForm::automatic;
  bool deterministic = false;
  RankLaunch launch = RankLaunch::thread;
  int collective_timeout = 300;

  // The flags of every verb that computes.
  void visit_device(auto& v) {
    v.group("Device");
    v("--device NAME", device, "auto: cuda if a GPU answers, else cpu", kDevices, kMayChange);
    v("--precision P", precision,
      "fp32, tf32, fp16, bf16, fp64 (reference); auto: fp16 on cuda, fp32 elsewhere");
    v("--threads N", threads, "CPU cores to compute with; 0: all this process may use",
      Within{0, 4096}, kMayChange);
    v("--conv FORM", conv, "convolutions: fused kernels, library calls, or the faster of both",
      kConvForms);
    v("--workspace MIB", workspace, "cap for the libraries' workspace", Within{1, 65536},
      kMayChange);
    v("--deterministic", deterministic,
      "time nothing: the same algorithms, hence the same bits, in every run; always so in eval, "
      "predict and audit");
  }
  // The further flags of verbs with data sets and several ranks.
  void visit_ranks(auto& v) {
    v("--gpus LIST", gpus, "how many GPUs, or which: 2, or 0,3", kMayChange);
    v("--ranks N", ranks, "data-parallel ranks on the CPU, each with its share of the cores",
      Within{1, 1024}, kMayChange);
    v("--workers N", workers,
      "threads that load images; 0: as many as cores (computing on the CPU: half)", Within{0, 1024},
      kMayChange);
    v("--launch HOW", launch,
      "thread: the ranks are threads of each process; process: --gpus, --ranks and --threads are "
      "those of the host, with a process for each rank",
      kRankLaunches, kMayChange);
    v("--collective-timeout SECONDS", collective_timeout,
      "how long ranks wait for one that does not take part", Within{1, 86400}, kMayChange);
  }
};

// The devices chosen, one entry per rank of this process, all in one group.
struct Ranks {
  BackendKind kind = BackendKind::cpu;
  Precision precision = Precision::fp32;
  std::vector<BackendOptions> options;
  std::vector<std::vector<int>> cores;  // of each rank's threads; an empty one: any
  int workers = 1;                      // loading threads of each rank
  std::shared_ptr<Wire> wire;           // to the other processes; null: there are none
  std::shared_ptr<Lifeline> lifeline;   // beside the wire

  int count() const { return static_cast<int>(options.size()); }  // in this process
  int world() const { return options.front().communicator.ranks(); }
  bool leads() const { return options.front().communicator.rank == 0; }  // rank 0 is here
};

// The ranks of a verb that runs in one process. Error(usage) under a launcher of several.
Ranks choose_ranks(const DeviceOptions& options);

// Starts as many threads as the ranks of this process will have, and ends them. Error(memory) where
// the system refuses, because later libraries would end the program.
void check_threads(const Ranks& ranks);

int count_gpus(const DeviceOptions& options);  // that --gpus names

// The PCI bus ids of the GPUs that these ranks compute on, for Monitor; none on a CPU.
std::vector<std::string> gpu_bus_ids(const Ranks& ranks);
// What env.json says: how many ranks, in which precision, on which devices, with which CUDA
// libraries and driver.
nlohmann::ordered_json describe_ranks(const Ranks& ranks);

// Calls body(i) on a thread for each rank of this process, on the rank's cores. The first
// failure wakes the other ranks, of all processes, where they wait for each other, and is rethrown
// when those of this process have ended. Error(preempted) is no failure: ranks agree on it. Among
// several ranks, what is Error(internal) or no Error is thrown as Error(collective) with the rank.
void on_every_rank(const Ranks& ranks, const std::function<void(int i)>& body);

std::unique_ptr<Backend> make_backend(BackendKind kind, const BackendOptions& options);

}  // namespace engine
