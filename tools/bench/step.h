// Times whole steps of a session on synthetic data that lies on the device.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "engine/graph.h"
#include "tools/machine/device.h"

namespace engine {

struct StepBench {
  std::string model = "efficientnet_b3";
  int batch = 128, image_size = 0, classes = 0;  // 0: the model's default
  int steps = 50, warmup = 10;
  bool train = true;  // else evaluation, which returns the logits to the host
  ConvForm conv = ConvForm::automatic;
  bool deterministic = false;
  size_t workspace = size_t{256} << 20;
};

// Fills in image_size and classes: the classes are those of the stored reference rates.
StepBench with_defaults(StepBench bench);
Graph graph_of(const StepBench& bench);

// Of rank 0, but the rate.
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
