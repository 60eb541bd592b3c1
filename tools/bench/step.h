// Times whole steps of a session: on synthetic data that lie on the device, or on batches that the
// caller feeds to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/graph.h"
#include "engine/session.h"
#include "tools/machine/device.h"
#include "tools/machine/exchange.h"
#include "tools/machine/monitor.h"

namespace engine {

struct StepBench {
  std::string model = "efficientnet_b3";
  int batch = 128, image_size = 0, classes = 0;  // 0: the model's default
  int total = 0;  // images per step of all ranks, divided among them; 0: `batch` on each
  int steps = 50, warmup = 10;
  bool train = true;  // else evaluation, which returns the logits to the host
  ConvForm conv = ConvForm::automatic;
  MemoryUse memory = MemoryUse::fast;  // of training
  bool deterministic = false;
  size_t workspace = size_t{256} << 20;
  Exchange exchange;
  // Each rank trains `batch` images by itself, side by side; a step is as long as the slowest's.
  bool independent = false;
  bool marks =
      false;  // StepResult::times are noted, hence StepTimes::parts and gpus; training only
  std::map<std::string, std::string> algorithms;  // chosen before; empty: chosen now
};

// Fills in image_size and classes: the classes are those of the stored reference rates.
StepBench with_defaults(StepBench bench);
// And what the flags of every verb that computes say.
StepBench with_flags(StepBench bench, const DeviceOptions& flags);
Graph graph_of(const StepBench& bench);

// The images per step of one rank: a total is divided as in training, the remainder among the first
// ranks.
int batch_of(const StepBench& bench, int rank, int ranks);
int64_t images_per_step(const StepBench& bench, int ranks);  // of all ranks

// One rank's session, whose random batch lies on the device: every rank has its own.
class SyntheticSession {
 public:
  // Returns when `bench.warmup` steps are done.
  SyntheticSession(const StepBench& bench, BackendKind kind, const BackendOptions& options);

  // One more step on the batch that lies there; nothing is uploaded.
  void enqueue() { enqueue({.count = bench_.batch}); }
  void enqueue(const HostBatch& batch);
  uint64_t last() const { return last_; }  // the number of the training step enqueued last
  double loss();                           // of the last step

  Backend& backend() { return *backend_; }
  Session& session() { return session_; }
  // What was taken before the session: context, module code, handles, NCCL.
  size_t context_bytes() const { return context_bytes_; }

 private:
  StepBench bench_;
  std::unique_ptr<Backend> backend_;
  size_t context_bytes_;
  Session session_;
  uint64_t last_ = 0;
  StepResult evaluated_;
};

// The next batch of a rank, valid until the next call; it is called on the rank's thread.
using Feed = std::function<HostBatch()>;
// Makes a rank's feed; the backend outlives it.
using MakeFeed = std::function<Feed(Backend& backend, const Communicator& communicator)>;

// Where a training step spends its time, by the device's clock, in milliseconds: medians over the
// steps, of `data` the mean, since one late batch is followed by others that wait already.
struct StepParts {
  double data = 0;  // from the end of a step to the next one's beginning: loader, upload, launch
  double forward = 0, backward = 0;
  double all_reduce = 0;  // after the backward: what it does not hide
  double optimizer = 0;
};

// Of consecutive steps whose times are noted; zeros without any.
StepParts parts_of(std::span<const StepResult> steps);

// Of a training step: from the result before to its own, by std::chrono::steady_clock.
struct TimedStep {
  double ms = 0;
  uint64_t began_ns = 0;  // where `ms` begins
  StepResult result;
};

// A GPU never waits for the host: four steps are enqueued beside the one that runs. Elsewhere
// nothing runs beside the host. A step ends when its result arrives. Without a feed, steps take the
// batch that lies there.
std::vector<TimedStep> time_training(SyntheticSession& synthetic, int steps, const Feed& feed = {});

// The name of the GPU, or of the CPU.
std::string hardware_of(BackendKind kind, int device);

// All but the rate are rank 0's.
struct StepTimes {
  std::string hardware;
  std::vector<double> samples_ms;  // one per step; of independent ranks, the slowest one's
  double images_per_second = 0;    // all ranks, of the median step; with a feed of the mean step
  double warmup_s = 0;             // from the graph to the first measured step
  double loss = 0;                 // of the last step
  size_t planned_bytes = 0;        // what the arenas allocate
  size_t used_bytes = 0;           // what the session took: arenas, graphs, late library memory
  size_t context_bytes = 0;        // taken before: context, module code, handles, NCCL
  StepParts parts;                 // with StepBench::marks
  std::optional<GpuReading> gpus;  // likewise, of all ranks' GPUs while the steps ran
  std::map<std::string, std::string> algorithms;  // that the backend chose
};

// One thread per rank; the first failure stops the others and is rethrown. Without a feed the
// batches are synthetic and lie on the device.
StepTimes measure_step(const StepBench& bench, const Ranks& ranks, const MakeFeed& feed = {});

// The time that stands for all steps: the median, with a feed the mean, since one late batch is
// followed by others that wait already.
double typical_ms(std::span<const double> samples, bool fed);
// Step by step the longest of all ranks.
std::vector<double> slowest_of(std::span<const std::vector<double>> ranks);

// Memory in use: of the whole GPU, or resident in this process.
size_t used_bytes(const Backend& backend, int device);

// Of unsorted values, interpolated; p in [0, 1].
double quantile(std::span<const double> values, double p);

}  // namespace engine
