// engine bench inference: latency, rate and memory of a model's forward pass by batch size and
// precision.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/json.h"
#include "tools/bench/step.h"
#include "tools/cli/list.h"
#include "tools/cli/units.h"
#include "tools/engine/verbs.h"
#include "tools/score/model_file.h"

namespace engine {
namespace {

struct BenchInferenceOptions : DeviceOptions {
  StepBench bench{.steps = 30, .warmup = 5, .train = false};
  int least = 1, most = 64;
  bool json = false;

  void visit(auto& v) {
    v.group("What to run; --precision may be a list, and auto is fp32 and, on a GPU, fp16 too");
    v("--model NAME", bench.model, "on synthetic images that lie on the device", known_models());
    v("--least N", least, "the smallest batch; each next one is twice as large", Within{1, 65536});
    v("--most N", most, "the largest batch", Within{1, 65536});
    v("--image-size N", bench.image_size, "side of the input (0: 224, mnist_cnn 28)",
      Within{0, 4096});
    v("--classes N", bench.classes, "outputs of the head (0: 35 for efficientnet_*, else 10)",
      Within{0, 1'000'000});
    v("--steps N", bench.steps, "measured per batch size, from call to logits", Within{1, 100'000});
    v("--warmup N", bench.warmup, "before, not measured", Within{0, 100'000});
    v("--json", json, "one JSON object per line instead of the table");
    visit_device(v);
  }
};

// The precisions that a list names, or those that "auto" stands for.
std::vector<std::string> precisions_of(const DeviceOptions& device) {
  if (device.precision == "auto")
    return choose_ranks(device).kind == BackendKind::cuda ? std::vector<std::string>{"fp32", "fp16"}
                                                          : std::vector<std::string>{"fp32"};
  return split_list(device.precision);
}

constexpr char kInferenceRow[] = "{:<18}{:>6}{:>7}{:>11}{:>11}{:>11}{:>12}{:>11}\n";

std::string table_row(const StepBench& bench, std::string_view precision, const StepTimes& t) {
  return fmt::format(fmt::runtime(kInferenceRow), bench.model, bench.batch, precision,
                     fmt::format("{:.2f}", quantile(t.samples_ms, 0.5)),
                     fmt::format("{:.2f}", quantile(t.samples_ms, 0.9)),
                     fmt::format("{:.1f}", t.images_per_second),
                     fmt::format("{:.0f}", mib(double(t.planned_bytes))),
                     fmt::format("{:.0f}", mib(double(t.used_bytes))));
}

nlohmann::ordered_json to_json(const StepBench& bench, std::string_view precision,
                               const StepTimes& t) {
  return {{"hardware", t.hardware},
          {"model", bench.model},
          {"batch_size", bench.batch},
          {"precision", precision},
          {"image_size", bench.image_size},
          {"classes", bench.classes},
          {"ms_median", quantile(t.samples_ms, 0.5)},
          {"ms_p90", quantile(t.samples_ms, 0.9)},
          {"images_per_second", t.images_per_second},
          {"memory_planned_mib", double(t.planned_bytes) / 0x1p20},
          {"memory_mib", double(t.used_bytes) / 0x1p20},
          {"samples_ms", t.samples_ms}};
}

}  // namespace

int bench_inference(const Command& command) {
  const auto options = parse_options<BenchInferenceOptions>(command);
  if (!options) return 0;
  const BenchInferenceOptions& o = *options;
  require(o.least <= o.most, Failure::usage, "--least {} is above --most {}", o.least, o.most);
  StepBench bench = with_flags(o.bench, o);
  if (!o.json)
    print_to_stdout(fmt::format(fmt::runtime(kInferenceRow), "model", "batch", "prec", "ms median",
                                "ms p90", "img/s", "planned MiB", "used MiB"));
  for (const std::string& precision : precisions_of(o))
    for (bench.batch = o.least; bench.batch <= o.most; bench.batch *= 2) {
      DeviceOptions device = o;
      device.precision = precision;
      const StepTimes times = measure_step(bench, choose_ranks(device));
      print_to_stdout(o.json ? print_json(to_json(bench, precision, times)) + '\n'
                             : table_row(bench, precision, times));
      flush_stdout();
    }
  return 0;
}

}  // namespace engine
