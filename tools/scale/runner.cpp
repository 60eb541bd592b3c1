#include "tools/scale/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>
#include <span>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "engine/plan.h"
#include "io/files/json.h"
#include "tools/data/preprocess_options.h"
#include "tools/machine/cores.h"
#include "tools/machine/environment.h"
#include "tools/machine/launcher.h"
#include "tools/machine/processes.h"
#include "tools/scale/feed.h"

namespace engine {
namespace {

// One after the other, the GPUs that there are of those that the largest configuration wants; those
// of this process where there are several.
std::vector<BackendOptions> devices_of(const Study& study, const Ranks& joined) {
  if (study.device != Device::cuda) return {{.threads = 1}};
  if (joined.wire) return joined.options;
  std::vector<BackendOptions> devices;
  const auto present = static_cast<int>(cuda_devices().size());
  for (int device = 0; device < std::min(study.ranks.back(), present); ++device)
    devices.push_back({.device = device});
  return devices;
}

// Its ranks and their threads are those of each process.
DeviceOptions device_options(const Study& study, const std::string& precision, int ranks,
                             int workers) {
  const bool cuda = study.device == Device::cuda;
  return {.device = study.device,
          .precision = precision,
          .gpus = std::to_string(cuda ? ranks : 1),
          .ranks = cuda ? 1 : ranks,
          .threads = ranks * study.threads_per_rank,
          .workers = ranks * std::max(1, workers),
          .workspace = study.workspace,
          .conv = study.conv,
          .deterministic = study.deterministic};
}

// The largest number of ranks that a process which is alone can run.
int most_ranks(const Study& study) {
  const int most = study.device == Device::cuda ? static_cast<int>(cuda_devices().size())
                                                : available_cores() / study.threads_per_rank;
  int ranks = 1;
  for (const int count : study.ranks)
    if (count <= most) ranks = count;
  return ranks;
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

Ranks join_study(const Study& study) {
  require(study.device != Device::cuda || !cuda_devices().empty(), Failure::usage,
          "--device cuda: no GPU answers");
  const int processes = read_place(environment_variables()).processes;
  const int ranks = processes > 1 ? std::max(1, study.ranks.back() / processes) : most_ranks(study);
  return join_ranks(device_options(study, study.precisions.front(), ranks, 1),
                    [] { return false; });
}

StudyRunner::StudyRunner(const Study& study, const Ranks& joined)
    : study_(study), joined_(joined), mine_(joined.wire ? joined.wire->process() : 0) {
  if (!study_.synthetic()) data_ = read_training_data(study_.data).train;
  const Place place = read_place(environment_variables());
  Standing standing{.host = this_host().name,
                    .local_process = place.local_process,
                    .knows_hosts = place.knows_hosts,
                    .devices = {},
                    .cores = allowed_cores(),
                    .free_bytes = SIZE_MAX};
  for (const BackendOptions& options : devices_of(study_, joined_)) {
    const auto backend =
        make_backend(joined_.kind, {.device = options.device, .threads = options.threads});
    standing.free_bytes = std::min(standing.free_bytes, backend->free_bytes());
    limits_ = backend->info().limits;
    standing.devices.push_back(hardware_of(joined_.kind, options.device));
  }
  processes_ = gather_standings(joined_, standing);
}

const std::vector<std::string>& StudyRunner::hardware() const {
  return processes_[mine_].devices;
}

bool StudyRunner::together(const Configuration& c) const {
  return joined_.wire && c.ranks > 1;
}

std::span<const Standing> StudyRunner::where_runs(const Configuration& c) const {
  return std::span(processes_).first(together(c) ? processes_.size() : 1);
}

int StudyRunner::local_ranks(const Configuration& c) const {
  return together(c) ? c.ranks / joined_.wire->processes() : c.ranks;
}

int StudyRunner::classes() const {
  return data_ ? static_cast<int>(data_->classes.size()) : study_.classes;
}

StepBench StudyRunner::bench_of(const Configuration& c) const {
  StepBench bench{.model = c.model,
                  .batch = c.batch,
                  .image_size = study_.image_size,
                  .classes = classes(),
                  .total = c.scaling == Scaling::independent ? 0 : c.global,
                  .steps = study_.steps,
                  .warmup = study_.warmup,
                  .conv = study_.conv,
                  .memory = study_.memory,
                  .deterministic = study_.deterministic,
                  .workspace = size_t(study_.workspace) << 20,
                  .independent = c.scaling == Scaling::independent,
                  .marks = true};
  return with_defaults(bench);
}

RunRow StudyRunner::planned(const Configuration& c, int repeat) const {
  const StepBench bench = bench_of(c);
  const std::span<const Standing> where = where_runs(c);
  RunRow row{.host = host_names(where), .device = device_names(where), .nodes = count_hosts(where)};
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

// Ranks in host memory share it.
bool StudyRunner::fits(const Configuration& c, RunRow& row) const {
  const StepBench bench = bench_of(c);
  const Graph graph = graph_of(bench);
  const Plan plan = make_plan(graph, {.batch = c.batch,
                                      .memory = bench.memory,
                                      .precision = parse_precision(c.precision),
                                      .backend = joined_.kind,
                                      .conv = bench.conv,
                                      .limits = limits_,
                                      .workspace = bench.workspace});
  const size_t bytes = plan.totals(graph, {.moments = OptimizerConfig{}.moments()}).sum();
  row.memory_mib_per_rank = double(bytes) / 0x1p20;
  const size_t sharing = joined_.kind == BackendKind::cuda ? 1 : local_ranks(c);
  return indexes(graph, plan.options) &&
         bytes <= least_free_bytes(where_runs(c), joined_.kind) / sharing;
}

Ranks StudyRunner::ranks_of(const Configuration& c) const {
  const DeviceOptions options = device_options(study_, c.precision, local_ranks(c), c.workers);
  Ranks ranks = together(c) ? ranks_among(joined_, options) : lone_ranks(options);
  for (int i = 0; i < std::min(ranks.count(), joined_.count()); ++i)
    ranks.cores[i] = joined_.cores[i];
  return ranks;
}

StepTimes StudyRunner::measure(const Configuration& c) {
  if (joined_.kind != BackendKind::cuda) {
    const int ranks = local_ranks(c), needed = ranks * study_.threads_per_rank,
              cores = together(c) ? cores_of(processes_, mine_) : available_cores();
    require(needed <= cores, Failure::usage, "{} ranks of {} thread{} need {} cores, here are {}",
            ranks, study_.threads_per_rank, study_.threads_per_rank == 1 ? "" : "s", needed, cores);
  }
  StepBench bench = bench_of(c);
  auto& algorithms = algorithms_[fmt::format("{}/{}/{}", c.model, c.precision, c.batch)];
  bench.algorithms = algorithms;
  MakeFeed feed;
  if (data_)
    feed = loader_feed(*data_, choose_preprocess(c.model, std::nullopt, {}, bench.image_size),
                       bench, c.workers);
  StepTimes times = measure_step(bench, ranks_of(c), feed);
  algorithms = times.algorithms;
  if (together(c)) add_processes(times, c);
  return times;
}

// What a process measures of itself alone: the GPUs that it uses, and steps of ranks that share
// nothing.
void StudyRunner::add_processes(StepTimes& times, const Configuration& c) const {
  using Json = nlohmann::json;
  const GpuReading mine = times.gpus.value_or(GpuReading{});
  const Json own = {
      {"samples_ms", times.samples_ms}, {"watts", mine.watts}, {"utilisation", mine.utilisation}};
  GpuReading all{};
  std::vector<std::vector<double>> samples;
  for (const std::string& text : from_every_process(joined_, print_json(own))) {
    const Json part = parse_json<Json>(text);
    samples.push_back(part.at("samples_ms"));
    all.watts += part.at("watts").get<double>();
    all.utilisation += part.at("utilisation").get<double>() / joined_.wire->processes();
  }
  if (times.gpus) times.gpus = all;
  if (c.scaling != Scaling::independent) return;
  times.samples_ms = slowest_of(samples);
  times.images_per_second = 1e3 * c.global / typical_ms(times.samples_ms, data_.has_value());
}

RunRow StudyRunner::run(const Configuration& c, int repeat) {
  if (!joined_.wire) return attempt(c, repeat);
  if (together(c)) return run_together(c, repeat);
  RunRow row = planned(c, repeat);
  made_by_process_0(joined_, [&] {
    row = attempt(c, repeat);
    return std::string();
  });
  return row;
}

RunRow StudyRunner::run_together(const Configuration& c, int repeat) {
  RunRow row = planned(c, repeat);
  row.status = from_process_0(joined_, fits(c, row) ? "ok" : "does_not_fit");
  if (row.ok()) fill_in(row, measure(c), study_.synthetic());
  return row;
}

RunRow StudyRunner::attempt(const Configuration& c, int repeat) {
  RunRow row = planned(c, repeat);
  const auto does_not_fit = [&row] { row.status = "does_not_fit"; };
  try {
    if (!fits(c, row)) return does_not_fit(), row;
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
