#include "tools/bench/step.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <numeric>
#include <thread>
#include <utility>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "engine/rng.h"
#include "models/models.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kLost{60};  // without a result: something failed, ask the device

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Random bytes and labels; every rank has its own.
struct SyntheticBatch {
  SyntheticBatch(const Graph& graph, int batch, int rank) : labels(batch) {
    const Buffer& image = graph.buffers[graph.image.buffer];
    images.resize(size_t(batch) * image.height * image.width * image.channels);
    Rng rng({.position = static_cast<uint32_t>(rank), .purpose = purpose("synthetic batch")});
    for (uint8_t& value : images) value = static_cast<uint8_t>(rng.below(256));
    for (int32_t& label : labels) label = static_cast<int32_t>(rng.below(graph.classes()));
  }
  std::vector<uint8_t> images;
  std::vector<int32_t> labels;
};

double milliseconds_since(Clock::time_point start) {
  return 1e3 * seconds_since(start);
}

StepResult wait_for(SyntheticSession& synthetic, uint64_t step) {
  Session& session = synthetic.session();
  const auto start = Clock::now();
  while (true) {
    if (const auto result = session.poll(step)) return *result;
    if (Clock::now() - start > kLost) return session.result(step);  // throws what went wrong
    std::this_thread::yield();
  }
}

std::vector<TimedStep> time_evaluation(SyntheticSession& synthetic, int steps) {
  std::vector<TimedStep> timed(steps);
  for (TimedStep& step : timed) {
    const auto start = Clock::now();
    synthetic.enqueue();
    step.ms = milliseconds_since(start);
  }
  return timed;
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.) / double(values.size());
}

struct Measurement {
  const StepBench& bench;
  const Ranks& ranks;
  const MakeFeed& make_feed;
  Monitor* monitor;  // null: the GPUs are not watched
  StepTimes times;
  std::vector<std::vector<double>> samples_ms;  // of each rank
};

// Ranks that share nothing are each the only one of a group; what they are told together, when to
// begin and to end, goes through the group of all.
BackendOptions options_of(const Measurement& m, int rank) {
  BackendOptions options = m.ranks.options[rank];
  if (m.bench.independent) options.communicator = {};
  return options;
}

void run_rank(Measurement& m, int rank) {
  const auto start = Clock::now();
  const StepBench& bench = m.bench;
  const BackendOptions options = options_of(m, rank);
  const Communicator& communicator = m.ranks.options[rank].communicator;
  SyntheticSession synthetic(bench, m.ranks.kind, options);
  const Feed feed = m.make_feed ? m.make_feed(synthetic.backend(), options.communicator) : Feed();
  if (feed) time_training(synthetic, std::max(1, bench.warmup), feed);
  communicator.group->barrier(communicator.rank);
  const double warmup_s = seconds_since(start);
  if (rank == 0 && m.monitor) m.monitor->take();
  const std::vector<TimedStep> timed = bench.train ? time_training(synthetic, bench.steps, feed)
                                                   : time_evaluation(synthetic, bench.steps);
  for (const TimedStep& step : timed) m.samples_ms[rank].push_back(step.ms);
  communicator.group->barrier(communicator.rank);
  if (rank > 0) return;
  StepTimes& times = m.times;
  if (m.monitor) times.gpus = m.monitor->take().gpu;
  times.hardware = hardware_of(m.ranks.kind, options.device);
  std::vector<StepResult> results;
  for (const TimedStep& step : timed) results.push_back(step.result);
  times.samples_ms = bench.independent ? slowest_of(m.samples_ms) : m.samples_ms[rank];
  times.warmup_s = warmup_s;
  times.images_per_second = 1e3 * double(images_per_step(bench, communicator.ranks())) /
                            typical_ms(times.samples_ms, bool(feed));
  if (bench.marks && bench.train) times.parts = parts_of(results);
  times.planned_bytes = synthetic.session().allocated_bytes();
  times.context_bytes = synthetic.context_bytes();
  const size_t used = used_bytes(synthetic.backend(), options.device);
  times.used_bytes =
      used - std::min(used, synthetic.context_bytes());  // others may have freed some
  times.loss = synthetic.loss();
  times.algorithms = synthetic.backend().algorithms();
}

StepBench of_rank(StepBench bench, const Communicator& communicator) {
  bench.batch = batch_of(bench, communicator.rank, communicator.ranks());
  return bench;
}

std::unique_ptr<Backend> open_backend(const StepBench& bench, BackendKind kind,
                                      const BackendOptions& options) {
  auto backend = make_backend(kind, options);
  if (!bench.algorithms.empty()) backend->set_algorithms(bench.algorithms);
  return backend;
}

}  // namespace

SyntheticSession::SyntheticSession(const StepBench& bench, BackendKind kind,
                                   const BackendOptions& options)
    : bench_(of_rank(bench, options.communicator)),
      backend_(open_backend(bench, kind, options)),
      context_bytes_(used_bytes(*backend_, options.device)),
      session_(graph_of(bench), *backend_,
               {.programs = {{bench_.batch, bench.train ? Mode::train : Mode::evaluate}},
                .precision = options.precision,
                .conv = bench.conv,
                .memory = bench.memory,
                .deterministic = bench.deterministic,
                .workspace = bench.workspace,
                .marks = bench.marks && bench.train,
                .sync_norms = bench.exchange.sync_norms,
                .buckets = bench.exchange.buckets,
                .bucket_elements = bench.exchange.bucket_elements()}) {
  session_.initialise(1);
  session_.prepare();
  const SyntheticBatch batch(session_.graph(), bench_.batch, options.communicator.rank);
  for (int slot = 0; slot < kSlots; ++slot)
    enqueue({batch.images.data(), batch.labels.data(), bench_.batch});
  for (int i = kSlots; i < bench.warmup; ++i) enqueue();
  backend_->synchronize();
}

void SyntheticSession::enqueue(const HostBatch& batch) {
  const StepInput input{
      .learning_rate = 1e-4, .divisor = double(bench_.total), .total = bench_.total};
  if (bench_.train)
    last_ = session_.train(batch, input);
  else
    session_.evaluate(batch, input, &evaluated_);
}

double SyntheticSession::loss() {
  return bench_.train ? session_.result(last_).loss : evaluated_.loss;
}

std::vector<TimedStep> time_training(SyntheticSession& synthetic, int steps, const Feed& feed) {
  std::vector<TimedStep> timed;
  const uint64_t ahead = synthetic.backend().info().kind == BackendKind::cuda ? 4 : 0;
  const uint64_t first = synthetic.last() + 1, end = first + steps;
  auto before = Clock::now();
  for (uint64_t step = first; step < end; ++step) {
    while (synthetic.last() + 1 < end && synthetic.last() < step + ahead)
      feed ? synthetic.enqueue(feed()) : synthetic.enqueue();
    const StepResult result = wait_for(synthetic, step);
    const auto now = Clock::now();
    timed.push_back({std::chrono::duration<double, std::milli>(now - before).count(),
                     static_cast<uint64_t>(before.time_since_epoch() / std::chrono::nanoseconds(1)),
                     result});
    before = now;
  }
  return timed;
}

std::string hardware_of(BackendKind kind, int device) {
  return kind == BackendKind::cuda ? cuda_devices()[device].name : this_host().cpu;
}

size_t used_bytes(const Backend& backend, int device) {
  if (backend.info().kind == BackendKind::cuda)
    return cuda_devices()[device].memory - backend.free_bytes();
  size_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double typical_ms(std::span<const double> samples, bool fed) {
  return fed ? mean_of(samples) : quantile(samples, 0.5);
}

std::vector<double> slowest_of(std::span<const std::vector<double>> ranks) {
  std::vector<double> slowest = ranks.front();
  for (const std::vector<double>& samples : ranks)
    for (size_t step = 0; step < slowest.size(); ++step)
      slowest[step] = std::max(slowest[step], samples.at(step));
  return slowest;
}

StepBench with_defaults(StepBench bench) {
  const bool digits = bench.model == "mnist_cnn";
  if (bench.image_size == 0) bench.image_size = digits ? 28 : 224;
  if (bench.classes == 0) bench.classes = bench.model.starts_with("efficientnet") ? 35 : 10;
  return bench;
}

StepBench with_flags(StepBench bench, const DeviceOptions& flags) {
  bench.conv = flags.conv;
  bench.deterministic = flags.deterministic;
  bench.workspace = size_t(flags.workspace) << 20;
  return with_defaults(std::move(bench));
}

Graph graph_of(const StepBench& bench) {
  return make_model(
      bench.model,
      {.classes = bench.classes, .height = bench.image_size, .width = bench.image_size});
}

int batch_of(const StepBench& bench, int rank, int ranks) {
  return bench.total > 0 ? bench.total / ranks + (rank < bench.total % ranks) : bench.batch;
}

int64_t images_per_step(const StepBench& bench, int ranks) {
  return bench.total > 0 ? bench.total : int64_t{bench.batch} * ranks;
}

StepParts parts_of(std::span<const StepResult> steps) {
  std::vector<double> durations[kMarks];  // by the mark that ends them; of the first: the pauses
  for (size_t i = 0; i < steps.size(); ++i) {
    const auto& at = steps[i].times;
    const auto add = [&](int mark, uint64_t from) {
      durations[mark].push_back(1e-6 * double(int64_t(at[mark] - from)));
    };
    if (i > 0) add(0, steps[i - 1].times[kMarks - 1]);
    for (int mark = 1; mark < kMarks; ++mark) add(mark, at[mark - 1]);
  }
  if (steps.empty()) return {};
  const auto median = [&](Mark end) { return quantile(durations[static_cast<int>(end)], 0.5); };
  return {.data = durations[0].empty() ? 0 : mean_of(durations[0]),
          .forward = median(Mark::forward),
          .backward = median(Mark::backward),
          .all_reduce = median(Mark::reduced),
          .optimizer = median(Mark::end)};
}

StepTimes measure_step(const StepBench& bench, const Ranks& ranks, const MakeFeed& feed) {
  for (int rank = 0; rank < ranks.world(); ++rank)
    require(batch_of(bench, rank, bench.independent ? 1 : ranks.world()) > 0, Failure::usage,
            "a step of {} images leaves none for rank {} of {}", bench.total, rank, ranks.world());
  std::optional<Monitor> monitor;
  if (bench.marks && ranks.kind == BackendKind::cuda)
    monitor.emplace(MonitorOptions{.bus_ids = gpu_bus_ids(ranks)});
  Measurement measurement{bench, ranks, feed, monitor ? &*monitor : nullptr, {}, {}};
  measurement.samples_ms.resize(ranks.count());
  on_every_rank(ranks, [&](int rank) { run_rank(measurement, rank); });
  return std::move(measurement.times);
}

double quantile(std::span<const double> values, double p) {
  if (values.empty()) return std::nan("");
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const double at = p * double(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - double(below)) * (sorted[above] - sorted[below]);
}

}  // namespace engine
