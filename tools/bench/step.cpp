#include "tools/bench/step.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <thread>

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

std::string hardware_of(BackendKind kind, int device) {
  return kind == BackendKind::cuda ? cuda_devices()[device].name : this_host().cpu;
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

void wait_for(SyntheticSession& synthetic, uint64_t step) {
  Session& session = synthetic.session();
  const auto start = Clock::now();
  while (!session.poll(step)) {
    if (Clock::now() - start > kLost) session.result(step);  // throws what went wrong
    std::this_thread::yield();
  }
}

// A GPU never waits for the host: four steps are enqueued beside the one that runs. Elsewhere
// nothing runs beside the host. A step ends when its result arrives.
std::vector<double> time_training(SyntheticSession& synthetic, int steps) {
  std::vector<double> samples;
  const uint64_t ahead = synthetic.backend().info().kind == BackendKind::cuda ? 4 : 0;
  const uint64_t first = synthetic.last() + 1, end = first + steps;
  auto before = Clock::now();
  for (uint64_t step = first; step < end; ++step) {
    while (synthetic.last() + 1 < end && synthetic.last() < step + ahead) synthetic.enqueue();
    wait_for(synthetic, step);
    const auto now = Clock::now();
    samples.push_back(std::chrono::duration<double, std::milli>(now - before).count());
    before = now;
  }
  return samples;
}

std::vector<double> time_evaluation(SyntheticSession& synthetic, int steps) {
  std::vector<double> samples;
  for (int i = 0; i < steps; ++i) {
    const auto start = Clock::now();
    synthetic.enqueue();
    samples.push_back(milliseconds_since(start));
  }
  return samples;
}

void run_rank(const StepBench& bench, const Ranks& ranks, int rank, StepTimes& times) {
  const auto start = Clock::now();
  const BackendOptions& options = ranks.options[rank];
  SyntheticSession synthetic(bench, ranks.kind, options);
  options.communicator.group->barrier(options.communicator.rank);
  const double warmup_s = seconds_since(start);
  std::vector<double> samples =
      bench.train ? time_training(synthetic, bench.steps) : time_evaluation(synthetic, bench.steps);
  options.communicator.group->barrier(options.communicator.rank);
  if (rank > 0) return;
  times = {.hardware = hardware_of(ranks.kind, options.device),
           .samples_ms = std::move(samples),
           .warmup_s = warmup_s};
  times.images_per_second = 1e3 * bench.batch * ranks.count() / quantile(times.samples_ms, 0.5);
  times.planned_bytes = synthetic.session().allocated_bytes();
  times.context_bytes = synthetic.context_bytes();
  times.used_bytes = used_bytes(synthetic.backend(), options.device) - synthetic.context_bytes();
  times.loss = synthetic.loss();
}

}  // namespace

SyntheticSession::SyntheticSession(const StepBench& bench, BackendKind kind,
                                   const BackendOptions& options)
    : bench_(bench),
      backend_(make_backend(kind, options)),
      context_bytes_(used_bytes(*backend_, options.device)),
      session_(graph_of(bench), *backend_,
               {.programs = {{bench.batch, bench.train ? Mode::train : Mode::evaluate}},
                .precision = options.precision,
                .conv = bench.conv,
                .deterministic = bench.deterministic,
                .workspace = bench.workspace,
                .sync_norms = bench.exchange.sync_norms,
                .buckets = bench.exchange.buckets,
                .bucket_elements = bench.exchange.bucket_elements()}) {
  session_.initialise(1);
  session_.prepare();
  const SyntheticBatch batch(session_.graph(), bench.batch, options.communicator.rank);
  for (int slot = 0; slot < kSlots; ++slot)
    enqueue({batch.images.data(), batch.labels.data(), bench.batch});
  for (int i = kSlots; i < bench.warmup; ++i) enqueue();
  backend_->synchronize();
}

void SyntheticSession::enqueue(const HostBatch& batch) {
  const StepInput input{.learning_rate = 1e-4};
  if (bench_.train)
    last_ = session_.train(batch, input);
  else
    session_.evaluate(batch, input, &evaluated_);
}

double SyntheticSession::loss() {
  return bench_.train ? session_.result(last_).loss : evaluated_.loss;
}

size_t used_bytes(const Backend& backend, int device) {
  if (backend.info().kind == BackendKind::cuda)
    return cuda_devices()[device].memory - backend.free_bytes();
  size_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

StepBench with_defaults(StepBench bench) {
  const bool digits = bench.model == "mnist_cnn";
  if (bench.image_size == 0) bench.image_size = digits ? 28 : 224;
  if (bench.classes == 0) bench.classes = bench.model.starts_with("efficientnet") ? 35 : 10;
  return bench;
}

Graph graph_of(const StepBench& bench) {
  return make_model(
      bench.model,
      {.classes = bench.classes, .height = bench.image_size, .width = bench.image_size});
}

StepTimes measure_step(const StepBench& bench, const Ranks& ranks) {
  StepTimes times;
  on_every_rank(ranks, [&](int rank) { run_rank(bench, ranks, rank, times); });
  return times;
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
