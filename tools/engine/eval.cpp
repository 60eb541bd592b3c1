// engine eval: everything that is measured of a weight file on a data set, printed and, with --out, written.
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "tools/engine/device.h"
#include "tools/engine/evaluation.h"
#include "tools/engine/input.h"
#include "tools/engine/model_file.h"
#include "tools/engine/progress.h"
#include "tools/engine/score.h"
#include "tools/engine/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct EvalOptions : DeviceOptions, PreprocessOptions {
  std::filesystem::path data, weights, out;
  std::string model;
  int batch = 64;
  ScoreOptions score{.part = "eval"};
  bool json = false;

  void visit(auto& v) {
    v("--data DIR", data, "DIR/val/CLASS/…, DIR/CLASS/…, or MNIST's idx files", kRequired);
    v("--weights FILE", weights, "safetensors or .pth", kRequired);
    v("--model NAME", model, "needed where the file does not name it", known_models());
    v("-b, --batch-size N", batch, "images per step", Within{1, 65536});
    v("--workers N", workers, "threads that load images; 0: one per core", Within{0, 1024});
    v("--out DIR", out,
      "write metrics.json, predictions.csv, confusion_matrix.csv and roc.csv there");
    v("--probabilities", score.probabilities, "a column for each class in predictions.csv");
    v("--resamples N", score.resamples, "of the bootstrap for confidence intervals; 0: none",
      Within{0, 1000000});
    v("--seed N", score.seed, "of the bootstrap");
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
  const Score scored =
      o.out.empty() ? score(result, data, o.score) : write_score(o.out, result, data, o.score);
  if (!o.json) {
    print_to_stdout(table(scored, data.classes));
  } else {
    nlohmann::ordered_json json = to_json(scored, data.classes);
    json["images_per_second"] = progress.images_per_second();
    print_to_stdout(json.dump() + '\n');
  }
  return 0;
}

}  // namespace engine
