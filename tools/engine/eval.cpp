// engine eval: loss, top-1, top-5 and macro AUC of a weight file on a data set.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "tools/engine/device.h"
#include "tools/engine/evaluation.h"
#include "tools/engine/input.h"
#include "tools/engine/model_file.h"
#include "tools/engine/progress.h"
#include "tools/engine/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct EvalOptions : DeviceOptions, PreprocessOptions {
  std::filesystem::path data, weights;
  std::string model;
  int batch = 64;
  bool json = false;

  void visit(auto& v) {
    v("--data DIR", data, "DIR/val/CLASS/…, DIR/CLASS/…, or MNIST's idx files", kRequired);
    v("--weights FILE", weights, "safetensors or .pth", kRequired);
    v("--model NAME", model, "needed where the file does not name it");
    v("-b, --batch-size N", batch, "images per step", Within{1, 65536});
    v("--workers N", workers, "threads that load images; 0: one per core", Within{0, 1024});
    v("--json", json, "one JSON object to stdout");
    visit_preprocess(v);
    visit_device(v);
  }
};

}  // namespace

int eval(const Command& command) {
  const auto options = parse_options<EvalOptions>(command);
  if (!options) return 0;
  const EvalOptions& o = *options;
  const ModelFile file = read_model_file(o.weights, o.model);
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, o, 0);
  say(describe(preprocess));
  Dataset data = file.classes.empty() ? read_evaluation_data(o.data, {})
                                      : read_evaluation_data(o.data, file.classes);
  require(static_cast<int>(data.classes.size()) == file.class_count, Failure::data,
          "{}: {} classes, but the head of {} has {}", o.data.string(), data.classes.size(),
          o.weights.string(), file.class_count);

  Inference inference(file, data, preprocess, o, o.batch);
  Loader& loader = inference.loader();
  EvaluationResult result{std::vector<float>(data.samples.size() * file.class_count),
                          std::vector<uint8_t>(data.samples.size())};
  Progress progress("evaluation", loader.steps());
  evaluate(inference.session(), loader, Communicator{}, result,
           [&](int images, double waited) { progress.step(images, waited); });
  progress.finish();
  const Metrics m = metrics_of(result, data);
  const nlohmann::ordered_json json = {
      {"samples", m.samples},
      {"loss", m.loss},
      {"top1", m.top1},
      {"top5", m.top5},
      {"auc_macro", m.auc_macro ? nlohmann::ordered_json(*m.auc_macro) : nullptr},
      {"images_per_second", progress.images_per_second()}};
  if (o.json)
    print_to_stdout(json.dump() + '\n');
  else
    print_to_stdout(fmt::format(
        "{} images: loss {:.4f}, top-1 {:.4f}, top-5 {:.4f}, macro AUC {}\n", m.samples, m.loss,
        m.top1, m.top5, m.auc_macro ? fmt::format("{:.4f}", *m.auc_macro) : "-"));
  return 0;
}

}  // namespace engine
