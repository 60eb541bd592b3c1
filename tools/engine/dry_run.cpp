#include "tools/engine/dry_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "tools/bench/model_facts.h"
#include "tools/bench/step.h"
#include "tools/cli/units.h"
#include "tools/train/training_plan.h"

namespace engine {
namespace {

std::string_view device_name(BackendKind kind) {
  return kind == BackendKind::cuda ? "cuda" : kind == BackendKind::cpu ? "cpu" : "reference";
}

struct Work {
  int64_t training = 0, validation = 0;    // images per epoch
  int64_t steps_per_epoch = 0, steps = 0;  // training steps
  double epochs() const { return double(steps) / double(steps_per_epoch); }
};

Work work_of(const TrainConfig& c, const TrainingData& data, int ranks) {
  Work w{.training = static_cast<int64_t>(data.train.samples.size()),
         .validation = static_cast<int64_t>(data.validation.samples.size())};
  const int64_t step = int64_t{c.batch} * ranks * c.accumulate;
  w.steps_per_epoch = std::max<int64_t>(1, (w.training + step - 1) / step);
  w.steps = w.steps_per_epoch * c.epochs;
  if (c.max_steps > 0) w.steps = std::min(w.steps, c.max_steps);
  return w;
}

// A training step and an evaluation step, measured; the rest is arithmetic.
std::string time_estimate(const TrainConfig& c, const Ranks& ranks, const Work& work, int classes) {
  StepBench bench{.model = c.model,
                  .batch = c.batch,
                  .image_size = c.preprocess.crop,
                  .classes = classes,
                  .steps = ranks.kind == BackendKind::cuda ? 20 : 2,
                  .warmup = ranks.kind == BackendKind::cuda ? 10 : 1,
                  .conv = c.conv,
                  .memory = c.memory,
                  .deterministic = c.deterministic,
                  .workspace = c.workspace};
  const StepTimes train = measure_step(bench, ranks);
  bench.train = false;
  const StepTimes evaluation = measure_step(bench, ranks);
  const double epoch = double(work.training) / train.images_per_second +
                       double(work.validation) / evaluation.images_per_second;
  return fmt::format(
      "measured on {}: {:.1f} ms per step, {:.1f} img/s training, {:.1f} img/s validation\n"
      "time {} per epoch, {} in all, where loading keeps up (engine bench data)\n",
      train.hardware, quantile(train.samples_ms, 0.5), train.images_per_second,
      evaluation.images_per_second, duration_text(epoch), duration_text(epoch * work.epochs()));
}

}  // namespace

DryRun dry_run(const TrainConfig& c, const DeviceOptions& device, const TrainingData& data) {
  const Ranks ranks = choose_ranks(device);
  const int classes = static_cast<int>(data.train.classes.size()), size = c.preprocess.crop;
  const Graph graph = training_graph(c, data, size);
  const Work work = work_of(c, data, ranks.count());
  const double macs = double(multiply_accumulates(graph));
  std::string text = fmt::format(
      "{}: {} classes, {} px, {} parameters\n"
      "data {} training and {} validation images\n"
      "plan {} epochs, {} steps per epoch, {} steps in all; batch {} x {} rank{} on {} in {}\n"
      "work {:.3f} GFLOP per image forward, {:.1f} TFLOP per training step\n",
      c.model, classes, size, graph.trained_parameters(), work.training, work.validation, c.epochs,
      work.steps_per_epoch, work.steps, c.batch, ranks.count(), ranks.count() > 1 ? "s" : "",
      device_name(ranks.kind), name_of(ranks.precision), 2e-9 * macs,
      6e-12 * macs * c.batch * ranks.count() * c.accumulate);
  const Plan plan = make_plan(graph, plan_options(c, ranks.kind, c.batch));
  text += "memory per rank\n" + memory_table(plan.totals(graph, update_memory(c)));
  try {
    check_memory(c, data, ranks);
    text += time_estimate(c, ranks, work, classes);
  } catch (const Error& error) {
    if (error.kind != Failure::memory) throw;
    return {text, error.what()};
  }
  return {text, ""};
}

}  // namespace engine
