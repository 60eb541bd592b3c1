// engine eval: everything that is measured of a weight file on a data set, printed and, with --out,
// written.
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "tools/cli/progress.h"
#include "tools/cli/terminal.h"
#include "tools/data/data_options.h"
#include "tools/data/leaks.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"
#include "tools/score/evaluation.h"
#include "tools/score/label_score.h"
#include "tools/score/model_file.h"
#include "tools/score/score.h"

namespace engine {
namespace {

struct EvalOptions : DataOptions, DeviceOptions, PreprocessOptions, WeightsKeyOption {
  std::filesystem::path weights, out;
  std::string model;
  std::optional<Part> part;
  int batch = 64;
  ScoreOptions score{.part = "eval"};
  std::string by;
  bool json = false;

  void visit(auto& v) {
    v("--weights FILE", weights, "safetensors or .pth, or a run", kRequired);
    v("--model NAME", model, "needed where the file does not name it", known_models());
    visit_weights_key(v);
    v("-b, --batch-size N", batch, "images per step", Within{1, 65536});
    v("--workers N", workers, "threads that load images; 0: one per core", Within{0, 1024});
    v("--out DIR", out,
      "write metrics.json, predictions.csv, roc.csv, pr.csv and, of classes, confusion_matrix.csv "
      "there");
    v("--probabilities", score.probabilities,
      "a column for each class in predictions.csv also of more than 100");
    v("--by COLUMN,...", by, "a table for each of these columns of --labels: how its values fare");
    v("--calibrated", score.calibrated,
      "divide logits by the temperature that training found on its validation images");
    v("--resamples N", score.resamples, "of the bootstrap for confidence intervals; 0: none",
      Within{0, 1000000});
    v("--seed N", score.seed, "of the bootstrap");
    v("--json", json, "one JSON object to stdout");
    visit_data(v);
    v("--part NAME", part,
      "which images: train, val or test (default: val; CLASS/… in --data, or labels without a "
      "column split: all)",
      kPartNames);
    visit_preprocess(v);
    visit_device(v);
  }
};

// Weights of several labels say which columns of --labels these are, unless flags do.
void follow_task(EvalOptions& o, const ModelFile& file) {
  if (file.task == Task::labels && !o.labels.empty() && !o.label_columns && !o.label_separator)
    o.label_columns = fmt::format("{}", fmt::join(file.classes, ","));
}

void check_task(const Dataset& data, const ModelFile& file) {
  require(file.classes.empty() || data.task == file.task, Failure::usage, "{}: {}",
          file.path.string(),
          file.task == Task::labels
              ? "its outputs are labels, and these images have one class each; --labels with "
                "--label-columns or --label-separator"
              : "its outputs are classes, of which an image has one, and these images have several "
                "labels");
}

// What is said of the images: text and JSON.
struct Told {
  std::string table;
  nlohmann::ordered_json json;
};

Told tell(const EvalOptions& o, const ScoreOptions& scoring, const EvaluationResult& result,
          const Dataset& data) {
  if (data.task == Task::labels) {
    const LabelScore scored = o.out.empty() ? score_labels(result, data, scoring)
                                            : write_label_score(o.out, result, data, scoring);
    return {table(scored, data.classes), to_json(scored, data.classes)};
  }
  const Score scored =
      o.out.empty() ? score(result, data, scoring) : write_score(o.out, result, data, scoring);
  return {table(scored, data.classes), to_json(scored, data.classes)};
}

}  // namespace

int eval(const Command& command) {
  auto options = parse_options<EvalOptions>(command);
  if (!options) return 0;
  EvalOptions& o = *options;
  require(o.out.empty() || !std::filesystem::exists(o.out / "results.csv"), Failure::usage,
          "--out {}: the folder of a training run, whose scores would be lost", o.out.string());
  const ModelFile file = read_model_file(o.weights, o.model, o.weights_key);
  require(!o.score.calibrated || file.decisions.temperature, Failure::usage,
          "--calibrated: {} holds no temperature; a training finds it on its validation images",
          o.weights.string());
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, o, 0);
  say(describe(preprocess));
  follow_task(o, file);
  EvaluationData evaluated = load_evaluation_data(o, o.part, file.classes);
  Dataset& data = evaluated.images;
  check_task(data, file);
  require(static_cast<int>(data.classes.size()) == file.class_count, Failure::data,
          "{}: {} classes, but the head of {} has {}",
          (o.data.empty() ? o.labels : o.data).string(), data.classes.size(), o.weights.string(),
          file.class_count);
  ScoreOptions scoring = o.score;
  scoring.decisions = file.decisions;
  scoring.by = read_columns(o, o.by, data);
  const std::string part(evaluated.part ? to_string(*evaluated.part) : "all");
  say(fmt::format("{} images of {} classes ({})", data.samples.size(), data.classes.size(), part));
  const int threads = choose_ranks(o).workers;
  Dataset* const sets[] = {&data};
  open_cache(sets, o, preprocess,
             {.threads = threads,
              .device_bytes = Obstacle{"an evaluation reads each image once"},
              .reused = false});
  if (evaluated.train) {
    const NamedSet parts[] = {{"train", &*evaluated.train}, {part, &data}};
    report_leaks(parts, o, {.threads = threads}, o.out);
  }

  if (!o.out.empty()) make_folder(o.out);  // before the work, not after it

  Inference inference(file, data, preprocess, o, o.batch, o.on_bad_image);
  Loader& loader = inference.loader();
  EvaluationResult result{std::vector<float>(data.samples.size() * file.class_count),
                          std::vector<uint8_t>(data.samples.size())};
  Progress progress("evaluation", loader.steps());
  evaluate(inference.session(), loader, data, Communicator{}, result,
           [&](int images, double waited) { progress.step(images, waited); });
  progress.finish();
  const std::vector<BadImage> bad_images = loader.bad_images();
  say_skipped(part, bad_images, data.samples.size());
  if (const std::string damage = damage_of(data); !damage.empty()) say(damage);
  Told told = tell(o, scoring, result, data);
  if (!o.json) {
    print_to_stdout(told.table);
  } else {
    nlohmann::ordered_json& json = told.json;
    json["images_per_second"] = progress.images_per_second();
    json["unreadable"] = bad_images.size();
    json["places"] = to_json(evaluated.notes);
    print_to_stdout(print_json(json) + '\n');
  }
  return 0;
}

}  // namespace engine
