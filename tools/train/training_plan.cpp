#include "tools/train/training_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "models/models.h"
#include "tools/cli/terminal.h"
#include "tools/data/data_options.h"

namespace engine {

Graph training_graph(const TrainConfig& c, const TrainingData& data, int image_size) {
  Graph graph = make_model(c.model, {.classes = static_cast<int>(data.train.classes.size()),
                                     .height = image_size,
                                     .width = image_size,
                                     .norm_epsilon = c.norm_epsilon});
  graph.initialisation.published_head = c.published_head;
  return graph;
}

PlanOptions plan_options(const TrainConfig& c, BackendKind kind, int batch) {
  return {.batch = batch,
          .training = true,
          .memory = c.memory,
          .frozen_norms = c.frozen_norms,
          .precision = c.precision,
          .backend = kind,
          .conv = c.conv,
          .workspace = c.workspace};
}

UpdateMemory update_memory(const TrainConfig& c) {
  return {.moments = c.optimizer.moments(),
          .accumulates = c.accumulate > 1,
          .averages = c.ema_decay > 0};
}

namespace {

// Of the device with the least of it.
size_t device_memory(const Ranks& ranks) {
  const std::vector<GpuInfo> devices = cuda_devices();
  size_t memory = SIZE_MAX;
  for (const BackendOptions& rank : ranks.options)
    memory = std::min(memory, devices.at(rank.device).memory);
  return memory;
}

// What a rank of this process may take.
size_t memory_of_rank(const Ranks& ranks) {
  switch (ranks.kind) {
    case BackendKind::cuda: return device_memory(ranks);
    case BackendKind::cpu: return available_memory() / static_cast<size_t>(ranks.count());
    case BackendKind::reference: break;
  }
  return SIZE_MAX;
}

}  // namespace

int automatic_batch(const TrainConfig& c, const TrainingData& data, const Ranks& ranks) {
  constexpr double kUse = 0.9;  // the rest is for what libraries allocate themselves
  BackendOptions alone = ranks.options[0];
  alone.communicator = {};  // the other ranks do not take part
  const auto backend = make_backend(ranks.kind, alone);
  const size_t memory = std::min(backend->free_bytes(), memory_of_rank(ranks));
  const auto free = static_cast<size_t>(kUse * static_cast<double>(memory));
  const Graph graph = training_graph(c, data, std::max(c.preprocess.crop, c.growth.last));
  const auto images = static_cast<int64_t>(data.train.samples.size()) / ranks.world();
  const int most = static_cast<int>(std::clamp<int64_t>(images, 1, 65536));
  const int batch =
      largest_batch(graph, plan_options(c, ranks.kind, most + 1), update_memory(c), free);
  require(batch > 0, Failure::memory, "--batch-size auto: not even one image fits in {:.0f} MiB",
          static_cast<double>(free) / 1048576);
  const int chosen = batch >= 8 ? batch / 8 * 8 : batch;
  const std::string_view limit = batch == indexed_batch(graph)
                                     ? "tensors of more are beyond what 32 bits can index"
                                 : batch < most    ? "more do not fit"
                                 : batch == images ? "a rank has no more training images"
                                                   : "a batch has no more images";
  say(fmt::format("batch size {}: {} images fit in {:.0f} MiB, {}", chosen, batch,
                  static_cast<double>(free) / 1048576, limit));
  return chosen;
}

int largest_batch(const Ranks& ranks, std::string_view model, int classes, int image_size) {
  constexpr double kUse = 0.9;
  constexpr int kMost = 1024;
  const Graph graph =
      make_model(model, {.classes = classes, .height = image_size, .width = image_size});
  TrainConfig c;
  c.precision = ranks.precision;
  c.ema_decay = 0.9;
  const double bytes = kUse * static_cast<double>(memory_of_rank(ranks));
  return largest_batch(graph, plan_options(c, ranks.kind, kMost + 1), update_memory(c),
                       bytes < 0x1p62 ? static_cast<size_t>(bytes) : SIZE_MAX);
}

void check_memory(const TrainConfig& c, const TrainingData& data, const Ranks& ranks) {
  const Graph graph = training_graph(c, data, std::max(c.preprocess.crop, c.growth.last));
  const PlanOptions options = plan_options(c, ranks.kind, c.batch);
  const size_t needed = make_plan(graph, options).totals(graph, update_memory(c)).sum(),
               memory = memory_of_rank(ranks);
  if (needed <= memory) return check_indexed(graph, options);
  fail(Failure::memory,
       "batch {} at {} pixels needs {:.0f} MiB for each rank, which has {:.0f} MiB; {}", c.batch,
       c.preprocess.crop, double(needed) / 1048576, double(memory) / 1048576,
       what_fits(graph, options, update_memory(c), memory));
}

void check_norms(const TrainConfig& c, const TrainingData& data, int ranks) {
  if (c.frozen_norms || c.batch * (c.exchange.sync_norms ? ranks : 1) > 1) return;
  const int side = c.growth.last > 0 ? c.growth.first : c.preprocess.crop;
  const Graph graph = training_graph(c, data, side);
  for (const Norm& norm : graph.norms) {
    const Buffer& buffer = graph.buffers[norm.at.buffer];
    require(
        buffer.height * buffer.width > 1, Failure::usage,
        "batch size {} at {} pixels: {} would have one value of each channel, and nothing below "
        "it would learn; a larger --batch-size or --image-size, or --freeze-norms",
        c.batch, side, norm.name);
  }
}

uint64_t bytes_beside_training(const TrainConfig& c, const TrainingData& data, const Ranks& ranks) {
  constexpr double kUse = 0.85;  // the rest is for libraries and other users of the device
  const Graph graph = training_graph(c, data, c.preprocess.crop);
  const size_t own =
      make_plan(graph, plan_options(c, ranks.kind, c.batch)).totals(graph, update_memory(c)).sum();
  const double left = kUse * static_cast<double>(device_memory(ranks)) - static_cast<double>(own);
  return left > 0 ? static_cast<uint64_t>(left) : 0;
}

}  // namespace engine
