// Times whole steps of a session on synthetic data that lie on the device.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/graph.h"
#include "engine/session.h"
#include "tools/machine/device.h"
#include "tools/machine/exchange.h"

namespace engine {

struct StepBench {
  std::string model = "efficientnet_b3";
  int batch = 128, image_size = 0, classes = 0;  // 0: the model's default
  int steps = 50, warmup = 10;
  bool train = true;  // else evaluation, which returns the logits to the host
  ConvForm conv = ConvForm::automatic;
  bool deterministic = false;
  size_t workspace = size_t{256} << 20;
  Exchange exchange;
};

// Fills in image_size and classes: the classes are those of the stored reference rates.
StepBench with_defaults(StepBench bench);
Graph graph_of(const StepBench& bench);

// One rank's session, whose random batch lies on the device: every rank has its own.
class SyntheticSession {
 public:
  // Returns when `bench.warmup` steps are done.
  SyntheticSession(const StepBench& bench, BackendKind kind, const BackendOptions& options);

  // One more step on the batch that lies there; nothing is uploaded.
  void enqueue() { enqueue({.count = bench_.batch}); }
  uint64_t last() const { return last_; }  // the number of the training step enqueued last
  double loss();                           // of the last step

  Backend& backend() { return *backend_; }
  Session& session() { return session_; }
  // What was taken before the session: context, module code, handles, NCCL.
  size_t context_bytes() const { return context_bytes_; }

 private:
  void enqueue(const HostBatch& batch);

  StepBench bench_;
  std::unique_ptr<Backend> backend_;
  size_t context_bytes_;
  Session session_;
  uint64_t last_ = 0;
  StepResult evaluated_;
};

// All but the rate are rank 0's.
struct StepTimes {
  std::string hardware;
  std::vector<double> samples_ms;  // one per step
  double images_per_second = 0;    // median step, all ranks
  double warmup_s = 0;             // from the graph to the first measured step
  double loss = 0;                 // of the last step
  size_t planned_bytes = 0;        // what the arenas allocate
  size_t used_bytes = 0;           // what the session took: arenas, graphs, late library memory
  size_t context_bytes = 0;        // taken before: context, module code, handles, NCCL
};

// One thread per rank; the first failure stops the others and is rethrown.
StepTimes measure_step(const StepBench& bench, const Ranks& ranks);

// Memory in use: of the whole GPU, or resident in this process.
size_t used_bytes(const Backend& backend, int device);

// Of unsorted values, interpolated; p in [0, 1].
double quantile(std::span<const double> values, double p);

}  // namespace engine
