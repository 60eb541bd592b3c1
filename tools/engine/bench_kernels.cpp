// engine bench kernels: every kernel and library call of a model's training step on one GPU.
#include <fmt/format.h>

#include <algorithm>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "tools/bench/gate.h"
#include "tools/bench/kernels.h"
#include "tools/bench/shapes.h"
#include "tools/bench/step.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct BenchKernelsOptions : DeviceOptions {
  StepBench bench;
  int gpu = 0, gate_batch = 2, runs = 20, rows = 40;
  bool unchecked = false, check_only = false, json = false;
  std::string filter;
  std::optional<std::filesystem::path> out;

  void visit(auto& v) {
    v.group("What to run");
    v("--model NAME", bench.model, "every distinct shape of its training step");
    v("-b, --batch-size N", bench.batch, "images of the step that is measured", Within{1, 65536});
    v("--image-size N", bench.image_size, "side of the input (0: 224, mnist_cnn 28)",
      Within{0, 4096});
    v("--classes N", bench.classes, "outputs of the head (0: 35 for efficientnet_*, else 10)",
      Within{0, 1'000'000});
    v("--runs N", runs, "of each kernel, every one on a cold L2", Within{1, 1000});
    v("--gate-batch N", gate_batch, "images of the step that is first compared with plain loops",
      Within{1, 64});
    v("--filter TEXT", filter,
      "only launches whose \"kernel shape\" has this text, and nothing else: for ncu "
      "--profile-from-start off");
    v("--unchecked", unchecked, "compare nothing first");
    v("--check-only", check_only, "compare only; the one part that any device can do");
    visit_device(v);
    v("--gpu N", gpu, "which GPU", Within{0, 63});
    v.group("Output");
    v("--rows N", rows, "shapes in the table (0: all)", Within{0, 100'000});
    v("--out FILE", out, "all of it as JSON");
    v("--json", json, "the JSON object instead of the table");
  }
};

// The steps that have the shape of one that failed; prints that one.
std::vector<int> failing_steps(const BenchKernelsOptions& o, const Graph& graph,
                               const PlanOptions& plan, const Ranks& ranks) {
  const std::vector<StepShape> shapes = distinct_shapes(graph);
  std::vector<int> wanted;
  for (const StepShape& shape : shapes) wanted.push_back(shape.first);
  const auto backend = make_backend(ranks.kind, ranks.options[0]);
  PlanOptions small = plan;
  small.batch = o.gate_batch;
  std::vector<int> failing;
  double worst = 0;
  for (const StepCheck& check : check_steps(graph, *backend, small, wanted)) {
    if (check.passed()) {
      worst = std::max(worst, check.error);
      continue;
    }
    const std::string key = shape_key(graph, graph.steps[check.step]);
    say(fmt::format(
        "WRONG, not measured: {} ({}): {} is {:.3g} times what is allowed from plain loops",
        check.name, key, check.worst, check.error));
    for (int i = 0; i < static_cast<int>(graph.steps.size()); ++i)
      if (shape_key(graph, graph.steps[i]) == key) failing.push_back(i);
  }
  say(
      fmt::format("{}: {} distinct steps compared with plain loops, {} steps of the model wrong; "
                  "the largest other error is "
                  "{:.2f} of what is allowed",
                  graph.model, wanted.size(), failing.size(), worst));
  return failing;
}

}  // namespace

int bench_kernels(const Command& command) {
  const auto options = parse_options<BenchKernelsOptions>(command);
  if (!options) return 0;
  const BenchKernelsOptions& o = *options;
  StepBench bench = with_flags(o.bench, o);
  if (!o.filter.empty()) bench.warmup = 0;
  Ranks ranks = choose_ranks(o);
  ranks.options[0].device = o.gpu;
  require(o.check_only || ranks.kind == BackendKind::cuda, Failure::usage,
          "bench kernels measures with CUDA events: it needs a GPU (--check-only does not)");
  const Graph graph = graph_of(bench);
  const PlanOptions plan{.batch = bench.batch,
                         .precision = ranks.precision,
                         .backend = ranks.kind,
                         .conv = o.conv,
                         .workspace = bench.workspace};
  std::vector<int> failing;
  if (o.check_only || (!o.unchecked && o.filter.empty()))
    failing = failing_steps(o, graph, plan, ranks);
  const int code = failing.empty() ? 0 : static_cast<int>(Failure::check);
  if (o.check_only) return code;

  SyntheticSession synthetic(bench, ranks.kind, ranks.options[0]);
  const KernelTimes times = time_cuda_kernels(
      synthetic.backend(), {.launches = synthetic.session().launches(bench.batch, Mode::train),
                            .step = [&] { synthetic.enqueue(); },
                            .left_out = failing,
                            .precision = ranks.precision,
                            .runs = o.runs,
                            .filter = o.filter});
  nlohmann::ordered_json json = {{"model", bench.model},
                                 {"batch_size", bench.batch},
                                 {"precision", name_of(ranks.precision)},
                                 {"conv", name_of(o.conv)},
                                 {"image_size", bench.image_size},
                                 {"wrong_steps", failing.size()}};
  json.update(kernel_json(times));
  if (o.out) write_file_atomically(*o.out, print_json(json, 1) + '\n');
  print_to_stdout(o.json             ? print_json(json) + '\n'
                  : o.filter.empty() ? kernel_table(times, o.rows)
                                     : filtered_table(times));
  return code;
}

}  // namespace engine
