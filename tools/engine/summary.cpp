// engine summary: layers, shapes, parameters and the memory plan of a model, on any machine.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/forms.h"
#include "engine/plan.h"
#include "io/files/json.h"
#include "io/images/preprocess.h"
#include "models/models.h"
#include "tools/bench/model_facts.h"
#include "tools/bench/shapes.h"
#include "tools/cli/units.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"
#include "tools/score/model_file.h"

namespace engine {
namespace {

constexpr Choice<BackendKind> kBackends[] = {
    {"cuda", BackendKind::cuda}, {"cpu", BackendKind::cpu}, {"reference", BackendKind::reference}};

struct SummaryOptions {
  std::string model = "efficientnet_b3", precision = "fp16";
  int classes = 1000, batch = 0, image_size = 0, workspace = 256;
  BackendKind device = BackendKind::cuda;
  ConvForm conv = ConvForm::automatic;
  MemoryUse memory = MemoryUse::fast;
  bool layers = false, shapes = false, json = false;

  void visit(auto& v) {
    v("--model NAME", model, "what to describe", known_models());
    v("--classes N", classes, "outputs of the head", Within{1, 1'000'000});
    v("--image-size N", image_size, "side of the input (0: 224, mnist_cnn 28)", Within{0, 4096});
    v("-b, --batch-size N", batch, "also the memory plan of training with that batch (0: none)",
      Within{0, 65536});
    v("--precision P", precision, "of the plan");
    v("--device NAME", device, "of the plan; nothing is asked of it", kBackends);
    v("--conv FORM", conv, "of the plan", kConvForms);
    visit_memory(v, memory);
    v("--workspace MIB", workspace, "cap for the libraries' workspace", Within{1, 65536});
    v("--layers", layers, "one line per step");
    v("--shapes", shapes, "one line per distinct shape of a step, with the forms of convolutions");
    v("--json", json, "one JSON object");
  }
};

std::string layer_line(const Graph& g, const Step& step) {
  const Operand in = operands_of(step)[0];
  const Buffer& from = g.buffers[in.at.buffer];
  std::string line = fmt::format("{:<48}{:<15}{:>4}x{:<4}{:>5}", name_of(step), kind_of(step),
                                 from.height, from.width, in.at.channels());
  if (const Slice* out = output_of(step)) {
    const Buffer& to = g.buffers[out->buffer];
    line += fmt::format(" → {:>4}x{:<4}{:>5}", to.height, to.width, out->channels());
  }
  return line + '\n';
}

// Of a convolution the forms that may compute it, too.
std::string shape_lines(const Graph& g, const FormOptions& options) {
  std::string text;
  for (const StepShape& shape : distinct_shapes(g)) {
    text += fmt::format("{} x{}", shape.key, shape.count);
    if (const auto* conv = std::get_if<Conv>(&g.steps[shape.first]))
      for (const Direction direction : {Direction::forward, Direction::backward})
        text += fmt::format("  {}: {}", name_of(direction),
                            names_of(candidates(g, *conv, direction, options)));
    text += '\n';
  }
  return text;
}

}  // namespace

int summary(const Command& command) {
  const auto options = parse_options<SummaryOptions>(command);
  if (!options) return 0;
  const SummaryOptions& o = *options;
  const int size = o.image_size > 0 ? o.image_size : o.model == "mnist_cnn" ? 28 : 224;
  const Graph g = make_model(o.model, {.classes = o.classes, .height = size, .width = size});
  const FormOptions forms{.batch = std::max(1, o.batch),
                          .precision = parse_precision(o.precision),
                          .backend = o.device,
                          .conv = o.conv};
  if (o.shapes) return print_to_stdout(shape_lines(g, forms)), 0;

  const int64_t parameters = g.trained_parameters();
  nlohmann::ordered_json json = {{"model", o.model},
                                 {"classes", o.classes},
                                 {"image_size", size},
                                 {"parameters", parameters},
                                 {"size_mib", mib(parameters * 4)},
                                 {"tensors", g.parameters.size() + g.norms.size()},
                                 {"macs", multiply_accumulates(g)}};
  std::string text;
  if (o.layers)
    for (const Step& step : g.steps) text += layer_line(g, step);
  text += fmt::format(
      "{}: {} classes, {} px\nparameters {} ({:.2f} MiB in fp32), {} tensors, {:.3f} GMAC per "
      "image\n",
      o.model, o.classes, size, parameters, mib(parameters * 4),
      g.parameters.size() + g.norms.size(), double(multiply_accumulates(g)) / 1e9);
  if (o.batch > 0) {
    const Plan plan = make_plan(g, {.batch = o.batch,
                                    .memory = o.memory,
                                    .precision = forms.precision,
                                    .backend = o.device,
                                    .conv = o.conv,
                                    .workspace = size_t(o.workspace) << 20});
    const Plan::Totals t = plan.totals(g, {.moments = OptimizerConfig{}.moments()});
    text += fmt::format("training with batch {} in {}:\n", o.batch, o.precision);
    text += memory_table(t);
    if (!indexes(g, plan.options))
      text += fmt::format("no device trains it: 32 bits can index the tensors of {} at most\n",
                          indexed_batch(g));
    if (o.memory == MemoryUse::lean) {
      double moved = 0;
      for (const Recomputation& again : plan.recomputed) moved += again.moved;
      text += fmt::format("lean: {} outputs are computed again, which moves {:.1f} MiB\n",
                          plan.recomputed.size(), moved / 0x1p20);
      json["recomputed"] = {{"outputs", plan.recomputed.size()}, {"moved_mib", moved / 0x1p20}};
    }
    for (const auto& [name, bytes] : memory_rows(t)) json["memory_mib"][name] = mib(bytes);
    json["memory_mib"]["total"] = mib(t.sum());
  }
  print_to_stdout(o.json ? print_json(json) + '\n' : text);
  return 0;
}

}  // namespace engine
