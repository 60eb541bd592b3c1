// engine bench step: time and memory of whole steps, beside stored reference rates.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "engine/error.h"
#include "io/files/json.h"
#include "models/models.h"
#include "tools/bench/gaps.h"
#include "tools/bench/gradient_stats.h"
#include "tools/bench/rates.h"
#include "tools/bench/step.h"
#include "tools/cli/list.h"
#include "tools/cli/terminal.h"
#include "tools/cli/units.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

enum class Phase { train, eval };
constexpr Choice<Phase> kPhases[] = {{"train", Phase::train}, {"eval", Phase::eval}};

struct BenchStepOptions : DeviceOptions {
  std::string models = "efficientnet_b3,densenet121", batches = "128";
  StepBench bench;
  Phase phase = Phase::train;
  bool gradients = false, gaps = false, json = false;
  std::optional<std::filesystem::path> against;

  void visit(auto& v) {
    v.group("What to run; models, batch sizes and precisions may be lists: 64,128");
    v("--model LIST", models, "synthetic images that lie on the device, Adam, random gates on");
    v("-b, --batch-size LIST", batches, "images per rank and step");
    v("--image-size N", bench.image_size, "side of the input (0: 224, mnist_cnn 28)",
      Within{0, 4096});
    v("--classes N", bench.classes, "outputs of the head (0: 35 for efficientnet_*, else 10)",
      Within{0, 1'000'000});
    v("--mode NAME", phase, "training steps, or evaluation with its logits brought back", kPhases);
    v("--steps N", bench.steps, "measured, each from result to result", Within{1, 100'000});
    v("--warmup N", bench.warmup, "before, not measured", Within{0, 100'000});
    visit_device(v);
    visit_memory(v, bench.memory);
    v("--gpus LIST", gpus, "how many GPUs, or which: 2, or 0,3");
    v("--ranks N", ranks, "data-parallel ranks on the CPU", Within{1, 1024});
    visit_exchange(v, bench.exchange);
    v.group("Output");
    v("--against FILE", against, "rates to stand beside ours: tools/compare/reference/*.json");
    v("--json", json, "one JSON object per line instead of the table");
    v("--gaps", gaps, "also what stands between a training step and the hardware");
    v("--gradients-stats", gradients,
      "time nothing; how large the batch-norm correction k0 is beside the gradient, per buffer");
  }
};

int parse_batch(const std::string& text) {
  const bool digits = !text.empty() && text.size() <= 5 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  const int batch = digits ? std::stoi(text) : 0;
  require(batch >= 1 && batch <= 65536, Failure::usage, "--batch-size: '{}' is not from 1 to 65536",
          text);
  return batch;
}

// ---------------------------------------------------------------- one configuration

struct Measured {
  StepBench bench;
  Ranks ranks;
  StepTimes times;
  std::vector<Rate> rates;  // of the same model, batch, precision and number of GPUs

  double ms(double p) const { return quantile(times.samples_ms, p); }
};

std::vector<Rate> same_configuration(const std::vector<Rate>& rates, const StepBench& bench,
                                     const Ranks& ranks) {
  std::vector<Rate> same;
  for (const Rate& rate : rates)
    if (rate.model == bench.model && rate.batch == bench.batch && rate.gpus == ranks.count() &&
        rate.precision == name_of(ranks.precision))
      same.push_back(rate);
  return same;
}

DeviceOptions alone(DeviceOptions device) {
  device.gpus = "1";
  device.ranks = 1;
  return device;
}

nlohmann::ordered_json to_json(const Measured& m) {
  nlohmann::ordered_json json = {{"system", "engine"},
                                 {"hardware", m.times.hardware},
                                 {"model", m.bench.model},
                                 {"batch_size", m.bench.batch},
                                 {"precision", name_of(m.ranks.precision)},
                                 {"phase", m.bench.train ? "train" : "eval"},
                                 {"conv", name_of(m.bench.conv)},
                                 {"memory", name_of(m.bench.memory)},
                                 {"image_size", m.bench.image_size},
                                 {"classes", m.bench.classes},
                                 {"ranks", m.ranks.count()},
                                 {"threads", m.ranks.options[0].threads},
                                 {"sync_bn", m.bench.exchange.sync_norms},
                                 {"bucket_precision", name_of(m.bench.exchange.buckets)},
                                 {"bucket_mib", m.bench.exchange.bucket_mib},
                                 {"steps", m.bench.steps},
                                 {"warmup", m.bench.warmup},
                                 {"ms_median", m.ms(0.5)},
                                 {"ms_p10", m.ms(0.1)},
                                 {"ms_p90", m.ms(0.9)},
                                 {"images_per_second", m.times.images_per_second},
                                 {"memory_mib", mib(m.times.used_bytes)},
                                 {"memory_planned_mib", mib(m.times.planned_bytes)},
                                 {"context_mib", mib(m.times.context_bytes)},
                                 {"warmup_s", m.times.warmup_s},
                                 {"loss", m.times.loss}};
  for (const Rate& rate : m.rates)
    json["against"].push_back({{"hardware", rate.hardware},
                               {"system", rate.system},
                               {"mode", rate.mode},
                               {"images_per_second", rate.images_per_second},
                               {"ratio", m.times.images_per_second / rate.images_per_second}});
  json["samples_ms"] = m.times.samples_ms;
  return json;
}

constexpr const char* kStepRow = "{:<18}{:>6}{:>6}{:>6}{:>11}{:>19}{:>11}{:>10}{:>10}{:>10}\n";

std::string table_head() {
  return fmt::format(fmt::runtime(kStepRow), "model", "batch", "prec", "ranks", "ms/step",
                     "p10-p90", "img/s", "planned", "used MiB", "context");
}

std::string table_rows(const Measured& m) {
  const auto whole = [](double value) { return fmt::format("{:.0f}", value); };
  std::string text = fmt::format(
      fmt::runtime(kStepRow), m.bench.model, m.bench.batch, name_of(m.ranks.precision),
      m.ranks.count(), fmt::format("{:.2f}", m.ms(0.5)),
      fmt::format("{:.2f}-{:.2f}", m.ms(0.1), m.ms(0.9)),
      fmt::format("{:.1f}", m.times.images_per_second), whole(mib(m.times.planned_bytes)),
      whole(mib(m.times.used_bytes)), whole(mib(m.times.context_bytes)));
  for (const Rate& rate : m.rates)
    text += fmt::format("  {:.2f} x {:.1f} img/s: {}, {}, {}{}\n",
                        m.times.images_per_second / rate.images_per_second, rate.images_per_second,
                        rate.hardware, rate.system, rate.mode,
                        rate.memory_mb ? fmt::format(", {:.0f} MB", *rate.memory_mb) : "");
  return text;
}

Measured measure(const StepBench& bench, const DeviceOptions& device,
                 const std::vector<Rate>& rates) {
  const Ranks ranks = choose_ranks(device);
  return {.bench = bench,
          .ranks = ranks,
          .times = measure_step(bench, ranks),
          .rates = same_configuration(rates, bench, ranks)};
}

// ---------------------------------------------------------------- the batch norm's correction

void print_gradient_stats(const BenchStepOptions& o, const StepBench& bench,
                          const DeviceOptions& device) {
  const Ranks ranks = choose_ranks(alone(device));
  const auto backend = make_backend(ranks.kind, ranks.options[0]);
  const std::vector<BufferStats> buffers = gradient_stats(graph_of(bench), *backend,
                                                          {.batch = bench.batch,
                                                           .precision = ranks.precision,
                                                           .backend = ranks.kind,
                                                           .conv = bench.conv,
                                                           .workspace = bench.workspace});
  BufferStats all{.buffer = "all"};
  for (const BufferStats& b : buffers) {
    all.channels += b.channels;
    all.above += b.above;
    all.largest = std::max(all.largest, b.largest);
  }
  const auto share = [](const BufferStats& b) {
    return b.channels ? 1. * b.above / b.channels : 0;
  };
  if (o.json) {
    for (const BufferStats& b : buffers) {
      const nlohmann::ordered_json json = {{"model", bench.model},
                                           {"batch_size", bench.batch},
                                           {"precision", name_of(ranks.precision)},
                                           {"buffer", b.buffer},
                                           {"channels", b.channels},
                                           {"above", b.above},
                                           {"share", share(b)},
                                           {"median", b.median},
                                           {"largest", b.largest}};
      print_to_stdout(print_json(json) + '\n');
    }
    return;
  }
  std::string text = fmt::format(
      "{}, batch {}, {}: channels with |k0| > {} rms(dx)\n{:<48}{:>9}{:>8}{:>8}{:>10}{:>10}\n",
      bench.model, bench.batch, name_of(ranks.precision), kLargeRatio, "buffer", "channels",
      "above", "share", "median", "largest");
  const auto row = [&](const BufferStats& b) {
    text += fmt::format("{:<48}{:>9}{:>8}{:>7.1f}%{:>10.4f}{:>10.4f}\n", b.buffer, b.channels,
                        b.above, 100 * share(b), b.median, b.largest);
  };
  for (const BufferStats& b : buffers) row(b);
  text += fmt::format("{:<48}{:>9}{:>8}{:>7.1f}%{:>10}{:>10.4f}\n", all.buffer, all.channels,
                      all.above, 100 * share(all), "", all.largest);
  print_to_stdout(text);
}

}  // namespace

int bench_step(const Command& command) {
  const auto options = parse_options<BenchStepOptions>(command);
  if (!options) return 0;
  const BenchStepOptions& o = *options;
  require(!o.gaps || o.phase == Phase::train, Failure::usage,
          "--gaps is of training steps: not with --mode eval");
  const std::vector<Rate> rates = o.against ? read_rates(*o.against) : std::vector<Rate>();
  bool first = true;
  for (const std::string& model : split_list(o.models))
    for (const std::string& batch : split_list(o.batches))
      for (const std::string& precision : split_list(o.precision)) {
        StepBench bench = o.bench;
        bench.model = model;
        bench.batch = parse_batch(batch);
        bench.train = o.phase == Phase::train;
        bench = with_flags(bench, o);
        DeviceOptions device = o;
        device.precision = precision;
        if (o.gradients) {
          print_gradient_stats(o, bench, device);
          continue;
        }
        const Measured m = measure(bench, device, rates);
        nlohmann::ordered_json json = to_json(m);
        std::string text = (first ? table_head() : "") + table_rows(m);
        if (o.gaps) {
          const StepProfile profile = profile_step(bench, m.ranks);
          json["gaps"] = gap_json(profile);
          text += '\n' + gap_text(profile) + '\n';
        }
        print_to_stdout(o.json ? print_json(json) + '\n' : text);
        flush_stdout();
        first = false;
      }
  return 0;
}

}  // namespace engine
