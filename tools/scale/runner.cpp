#include "tools/scale/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "engine/plan.h"
#include "tools/data/preprocess_options.h"
#include "tools/machine/cores.h"
#include "tools/machine/environment.h"
#include "tools/scale/feed.h"

namespace engine {
namespace {

// The devices that the study's largest number of ranks would use, and are there.
std::vector<BackendOptions> devices_of(const Study& study) {
  if (study.device != Device::cuda) return {{.threads = 1}};
  std::vector<BackendOptions> devices;
  const auto present = static_cast<int>(cuda_devices().size());
  require(present > 0, Failure::usage, "--device cuda: no GPU answers");
  for (int device = 0; device < std::min(study.ranks.back(), present); ++device)
    devices.push_back({.device = device});
  return devices;
}

void fill_in(RunRow& row, const StepTimes& times, bool synthetic) {
  row.ms_median = quantile(times.samples_ms, 0.5);
  row.ms_p10 = quantile(times.samples_ms, 0.1);
  row.ms_p90 = quantile(times.samples_ms, 0.9);
  row.images_per_second = times.images_per_second;
  row.data_ms = synthetic ? 0 : times.parts.data;
  row.forward_ms = times.parts.forward;
  row.backward_ms = times.parts.backward;
  row.exposed_all_reduce_ms = times.parts.all_reduce;
  row.optimizer_ms = times.parts.optimizer;
  row.memory_mib_per_rank = double(times.planned_bytes) / 0x1p20;
  if (times.gpus) {
    row.gpu_utilisation = times.gpus->utilisation;
    row.watts = times.gpus->watts;
    row.joules_per_image = times.gpus->watts / times.images_per_second;
  }
  row.status = "ok";
}

}  // namespace

StudyRunner::StudyRunner(const Study& study) : study_(study) {
  if (!study_.synthetic()) data_ = read_training_data(study_.data).train;
  kind_ = study_.device == Device::cuda        ? BackendKind::cuda
          : study_.device == Device::reference ? BackendKind::reference
                                               : BackendKind::cpu;
  free_bytes_ = SIZE_MAX;
  for (const BackendOptions& options : devices_of(study_)) {
    const auto backend = make_backend(kind_, options);
    free_bytes_ = std::min(free_bytes_, backend->free_bytes());
    limits_ = backend->info().limits;
    hardware_.push_back(kind_ == BackendKind::cuda ? cuda_devices()[options.device].name
                                                   : this_host().cpu);
  }
}

int StudyRunner::classes() const {
  return data_ ? static_cast<int>(data_->classes.size()) : study_.classes;
}

StepBench StudyRunner::bench_of(const Configuration& c) const {
  StepBench bench{.model = c.model,
                  .batch = c.batch,
                  .image_size = study_.image_size,
                  .classes = classes(),
                  .total = c.global,
                  .steps = study_.steps,
                  .warmup = study_.warmup,
                  .conv = study_.conv,
                  .deterministic = study_.deterministic,
                  .workspace = size_t(study_.workspace) << 20,
                  .marks = true};
  return with_defaults(bench);
}

DeviceOptions StudyRunner::device_of(const Configuration& c) const {
  const bool cuda = kind_ == BackendKind::cuda;
  return {.device = study_.device,
          .precision = c.precision,
          .gpus = std::to_string(cuda ? c.ranks : 1),
          .ranks = cuda ? 1 : c.ranks,
          .threads = c.ranks * study_.threads_per_rank,
          .workers = c.ranks * std::max(1, c.workers),
          .workspace = study_.workspace,
          .conv = study_.conv,
          .deterministic = study_.deterministic};
}

RunRow StudyRunner::planned(const Configuration& c, int repeat) const {
  const StepBench bench = bench_of(c);
  RunRow row{.host = this_host().name, .device = hardware_.front()};
  row.ranks = c.ranks;
  row.threads_per_rank = study_.threads_per_rank;
  row.model = c.model;
  row.image_size = bench.image_size;
  row.parameters = graph_of(bench).trained_parameters();
  row.precision = c.precision;
  row.batch_per_rank = c.batch;
  row.global_batch = c.global;
  row.scaling = name_of(c.scaling);
  row.data = study_.data;
  row.loader_threads = c.workers;
  row.repeat = repeat;
  row.steps = study_.steps;
  return row;
}

size_t StudyRunner::needed_bytes(const Configuration& c) const {
  const StepBench bench = bench_of(c);
  const Graph graph = graph_of(bench);
  return make_plan(graph, {.batch = c.batch,
                           .precision = parse_precision(c.precision),
                           .backend = kind_,
                           .conv = bench.conv,
                           .limits = limits_,
                           .workspace = bench.workspace})
      .totals(graph, {.moments = OptimizerConfig{}.moments()})
      .sum();
}

// Ranks in host memory share it.
bool StudyRunner::fits(const Configuration& c, size_t bytes) const {
  return bytes <= free_bytes_ / (kind_ == BackendKind::cuda ? 1 : c.ranks);
}

StepTimes StudyRunner::measure(const Configuration& c) {
  if (kind_ != BackendKind::cuda) {
    const int needed = c.ranks * study_.threads_per_rank, cores = available_cores();
    require(needed <= cores, Failure::usage, "{} ranks of {} thread{} need {} cores, here are {}",
            c.ranks, study_.threads_per_rank, study_.threads_per_rank == 1 ? "" : "s", needed,
            cores);
  }
  StepBench bench = bench_of(c);
  auto& algorithms = algorithms_[describe(c)];
  bench.algorithms = algorithms;
  MakeFeed feed;
  if (data_)
    feed = loader_feed(*data_, choose_preprocess(c.model, std::nullopt, {}, bench.image_size),
                       bench, c.workers);
  StepTimes times = measure_step(bench, choose_ranks(device_of(c)), feed);
  algorithms = times.algorithms;
  return times;
}

RunRow StudyRunner::run(const Configuration& c, int repeat) {
  RunRow row = planned(c, repeat);
  const auto does_not_fit = [&row] { row.status = "does_not_fit"; };
  try {
    const size_t bytes = needed_bytes(c);
    row.memory_mib_per_rank = double(bytes) / 0x1p20;
    if (!fits(c, bytes)) return does_not_fit(), row;
    fill_in(row, measure(c), study_.synthetic());
  } catch (const Error& error) {
    if (error.kind == Failure::memory)
      does_not_fit();
    else
      row.status = fmt::format("failed: {}", error.what());
  } catch (const std::bad_alloc&) {
    does_not_fit();
  } catch (const std::exception& error) {
    row.status = fmt::format("failed: {}", error.what());
  }
  return row;
}

}  // namespace engine
