// engine predict: the classes of images, their features, and where the evidence lies.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>

#include "engine/error.h"
#include "engine/features.h"
#include "engine/measures/metrics.h"
#include "engine/parallel.h"
#include "tools/bench/step.h"
#include "tools/cli/clock.h"
#include "tools/cli/progress.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "tools/cli/units.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"
#include "tools/machine/environment.h"
#include "tools/predict/explanation.h"
#include "tools/predict/features_file.h"
#include "tools/predict/in_order.h"
#include "tools/predict/inputs.h"
#include "tools/predict/prediction_text.h"
#include "tools/predict/views.h"
#include "tools/score/decisions.h"
#include "tools/score/evaluation.h"
#include "tools/score/model_file.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

struct PredictOptions : DeviceOptions, PreprocessOptions, WeightsKeyOption {
  std::vector<std::string> files;
  fs::path weights, out, embeddings, explain;
  std::string model, explain_class;
  int batch = 16, top = 1;
  bool json = false, csv = false, probabilities = false, calibrated = false, reject = false;
  Views tta = Views::none;

  void visit(auto& v) {
    v("FILES", files,
      "images, folders of them, patterns in quotes (\"DIR/*.jpg\"), or - for a list of paths on "
      "standard input, by lines or NUL bytes",
      kRequired);
    v("--weights FILE", weights, "safetensors or .pth, or a run", kRequired);
    v("--model NAME", model, "needed where the file does not name it", known_models());
    visit_weights_key(v);
    v("-b, --batch-size N", batch, "images per rank and step", Within{1, 65536});
    v("--tta VIEWS", tta,
      "mean probabilities over views of each image. flips: itself and its mirror image, left and "
      "right exchanged; dihedral: all eight flips and quarter turns",
      kViews);
    v("--calibrated", calibrated,
      "divide the logits by the temperature that training stored with the weights");
    v("--reject", reject,
      "mark images as not answered whose best class is less probable than the threshold that "
      "training stored with the weights; of several labels each label is marked by itself that is "
      "too near to its decision threshold");
    v.group("Output");
    v("--json", json, "one JSON object per image, with the logits");
    v("--csv", csv, "a table: path, class, class_index, probability");
    v("--top N", top, "name the N most probable classes of each image", Within{1, 100000});
    v("--probabilities", probabilities,
      "of all classes: columns p:CLASS in a table, a member in JSON");
    v("--out FILE", out, "write there instead of to stdout; .csv, .json and .jsonl imply the form");
    v("--embeddings FILE.npy", embeddings,
      "write what the last layer reads, float32 (images, features), and the paths into FILE.csv");
    v("--explain DIR", explain,
      "write class activation maps into this empty folder: a picture for each image, and sheets");
    v("--explain-class NAME", explain_class,
      "the class of the maps, by name or number (default: of each image the predicted one; of "
      "several labels the most probable)");
    visit_preprocess(v);
    visit_device(v);
    visit_ranks(v);
  }
};

PredictionForm form_of(const PredictOptions& o) {
  require(!o.json || !o.csv, Failure::usage, "--json and --csv: one of them");
  const std::string ending = o.out.extension().string();
  const PredictionForm form = o.csv || (!o.json && ending == ".csv") ? PredictionForm::csv
                              : o.json || ending == ".json" || ending == ".jsonl"
                                  ? PredictionForm::json
                                  : PredictionForm::text;
  require(!o.probabilities || form != PredictionForm::text, Failure::usage,
          "--probabilities needs --csv or --json");
  return form;
}

// A class by its name or, if none is called so, by its number; none: -1.
int find_class(const std::string& text, const ModelFile& file) {
  if (text.empty()) return kNone;
  const auto named = std::ranges::find(file.classes, text);
  if (named != file.classes.end()) return static_cast<int>(named - file.classes.begin());
  const bool number = text.find_first_not_of("0123456789") == std::string::npos;
  const int index = number && text.size() < 7 ? std::stoi(text) : file.class_count;
  require(index < file.class_count, Failure::usage,
          "--explain-class {}: none of the {} classes of {}", text, file.class_count,
          file.path.string());
  return index;
}

// From which probability on an image has a label; nothing where it has one class.
std::optional<std::vector<double>> thresholds_of(const PredictOptions& o, const ModelFile& file) {
  if (file.task != Task::labels) return {};
  std::vector<std::string> names;
  for (int c = 0; c < file.class_count; ++c) names.push_back(class_name(file.classes, c));
  return label_thresholds(file.decisions, names, o.calibrated);
}

// Below which probability of its best class an image is not answered, or below which confidence a
// label of it.
std::optional<double> reject_below(const PredictOptions& o, const ModelFile& file) {
  if (!o.reject) return std::nullopt;
  const auto& reject = file.decisions.reject;
  require(reject.has_value(), Failure::weights, "--reject: {} tells no threshold",
          o.weights.string());
  const auto threshold = reject->of(o.calibrated);
  require(threshold.has_value(), Failure::weights,
          "--reject: {}: at no probability were {} of the validation {} right", o.weights.string(),
          reject->accuracy, file.task == Task::labels ? "labels" : "images");
  return threshold;
}

// What is made of one image.
struct Predicted {
  Prediction prediction;
  std::vector<float> features;
  std::optional<Explanation> explanation;
};

// Where it goes.
struct Outputs {
  PredictionText text;
  std::optional<AtomicFile> file;  // nothing: stdout
  std::optional<FeaturesFile> features;
  std::optional<ExplanationFolder> explanation;
  int64_t withheld = 0;

  // Whoever reads stdout has each batch at once.
  void write(std::string_view lines) {
    if (file) return file->write(lines);
    print_to_stdout(lines);
    flush_stdout();
  }
  void take(std::vector<Predicted>&& images) {
    std::string lines;
    for (Predicted& p : images) {
      lines += text.line(p.prediction);
      withheld += text.withheld(p.prediction);
      if (features) features->append(p.prediction.path, p.features);
      if (explanation) explanation->append(std::move(*p.explanation), p.prediction);
    }
    write(lines);
  }
  void commit() {
    if (features) features->commit();
    if (explanation) explanation->commit();
    if (file) file->commit();
  }
};

struct Job {
  const PredictOptions& options;
  const ModelFile& file;
  const Dataset& data;
  const Preprocess& preprocess;
  const Ranks& ranks;
  const Graph& graph;
  int explained;  // the class of the maps; -1: of each image its own
  Outputs& outputs;
  InOrder<std::vector<Predicted>>& order;
};

// What ranks have seen, added up.
struct Costs {
  std::mutex mutex;
  std::vector<double> milliseconds;  // per batch, from bytes in host memory to logits there
  double waited = 0, seconds = 0;    // over all ranks: for images, and altogether
  double longest = 0;                // of the ranks, in seconds
  int64_t images = 0;
  size_t planned = 0, used = 0;         // bytes: of one rank, in use
  std::map<uint32_t, std::string> bad;  // by position in the data set
  std::optional<Progress> progress;
};

// One rank: its session, its loader, and what it makes of its batches.
class Predictor {
 public:
  Predictor(const Job& job, int rank)
      : job_(job),
        device_(job.ranks.options[size_t(rank)].device),
        inference_(job.file, job.data, job.preprocess, job.options, job.ranks, rank,
                   {.batch = job.options.batch,
                    .on_bad_image = OnBadImage::skip,
                    .features = job.outputs.features || job.outputs.explanation}) {
    if (!job.outputs.explanation) return;
    const Tensor weights =
        convert(session().state().at(job.graph.parameters[head_of(job.graph).linear->weight].name),
                DType::f32);
    head_.assign(weights.as<float>().begin(), weights.as<float>().end());
  }

  void run(Costs& costs) {
    session().prepare();
    const double began = steady_seconds();
    inference_.loader().start(0);
    while (const Batch* batch = next_batch()) {
      stop_if_requested("predicting");
      if (batch->count > 0) predict(*batch, costs);
    }
    note(costs, steady_seconds() - began);
  }

 private:
  Session& session() { return inference_.session(); }

  // Null also where no image at all can be read: then each is named, and none has a line.
  const Batch* next_batch() {
    try {
      return inference_.loader().next();
    } catch (const Error&) {
      if (inference_.loader().bad_images().size() < job_.data.samples.size()) throw;
      return nullptr;
    }
  }

  void predict(const Batch& batch, Costs& costs) {
    const int side = job_.preprocess.crop, channels = job_.preprocess.channels;
    const size_t classes = size_t(job_.file.class_count);
    const double start = steady_seconds();
    std::vector<std::vector<float>> views;
    views.push_back(session().evaluate({batch.images, batch.labels, batch.count}, {}));
    std::vector<float> features, maps;
    if (job_.outputs.features) features = session().features(batch.count);
    if (job_.outputs.explanation) maps = session().feature_maps(batch.count);
    for (int view = 1; view < count_of(job_.options.tta); ++view) {
      turned_.resize(size_t(batch.count) * side * side * channels);
      write_view(turned_.data(), batch.images, batch.count, side, channels, view);
      views.push_back(session().evaluate({turned_.data(), batch.labels, batch.count}, {}));
    }
    const double seconds = steady_seconds() - start;

    std::vector<Predicted> images;
    std::vector<int> rows;  // of the batch
    for (int i = 0; i < batch.count; ++i) {
      std::vector<std::span<const float>> logits;
      bool finite = !batch.substituted[i];
      for (const std::vector<float>& view : views) {
        logits.push_back(std::span(view).subspan(size_t(i) * classes, classes));
        finite =
            finite && std::ranges::all_of(logits.back(), [](float z) { return std::isfinite(z); });
      }
      if (!finite) continue;
      Predicted& made = images.emplace_back(predict_image(
          logits, std::max(job_.options.top, kNamedInSheets),
          job_.options.calibrated ? *job_.file.decisions.temperature : 1, job_.file.task));
      made.prediction.position = batch.first + i;
      made.prediction.path = job_.data.samples[size_t(batch.first + i)].path;
      made.features = part(features, i, batch.count);
      rows.push_back(i);
    }
    if (job_.outputs.explanation) explain(batch, maps, rows, images);
    job_.order.put(batch.first, batch.count, std::move(images));
    for (const std::vector<float>& view : views)
      require_finite_logits(session(), batch, view, job_.data);
    const std::lock_guard lock(costs.mutex);
    costs.milliseconds.push_back(1000 * seconds);
    costs.images += batch.count;
    if (costs.progress) costs.progress->step(batch.count, 0);
  }

  static std::vector<float> part(const std::vector<float>& all, int i, int count) {
    const auto size = static_cast<std::ptrdiff_t>(all.size()) / count;
    return {all.begin() + i * size, all.begin() + (i + 1) * size};
  }

  void explain(const Batch& batch, const std::vector<float>& maps, const std::vector<int>& rows,
               std::vector<Predicted>& images) {
    const Buffer& b = job_.graph.buffers[head_of(job_.graph).pool->in.at.buffer];
    const int side = job_.preprocess.crop, channels = job_.preprocess.channels;
    const size_t features = head_.size() / size_t(job_.file.class_count);
    parallel_for(images.size(), {.threads = job_.ranks.workers}, [&](size_t k) {
      Predicted& made = images[k];
      Image picture(side, side, channels);
      std::copy_n(batch.images + size_t(rows[k]) * picture.pixels.size(), picture.pixels.size(),
                  picture.pixels.data());
      const int shown = job_.explained == kNone ? made.prediction.best() : job_.explained;
      ActivationMap map =
          activation_map(part(maps, rows[k], batch.count), b.height, b.width,
                         std::span(head_).subspan(size_t(shown) * features, features));
      made.explanation =
          job_.outputs.explanation->draw(picture, std::move(map), shown, made.prediction);
    });
  }

  void note(Costs& costs, double seconds) {
    const std::lock_guard lock(costs.mutex);
    costs.seconds += seconds;
    costs.longest = std::max(costs.longest, seconds);
    costs.waited += inference_.loader().wait_seconds();
    costs.planned = std::max(costs.planned, session().allocated_bytes());
    costs.used = std::max(costs.used, used_bytes(session().backend(), device_));
    for (const BadImage& image : inference_.loader().bad_images())
      costs.bad.emplace(image.index, image.reason);
  }

  static constexpr int kNamedInSheets = 3;  // classes of an image

  const Job& job_;
  const int device_;
  Inference inference_;
  std::vector<float> head_;  // (classes, features)
  std::vector<uint8_t> turned_;
};

// Says latency, memory and rate. The first batch warms caches up and counts only if it is the only
// one. What limits is what others wait for: images, or the device.
void say_costs(const Costs& costs, const PredictOptions& o, const Ranks& ranks) {
  const auto warm = std::span(costs.milliseconds).subspan(costs.milliseconds.size() > 1 ? 1 : 0);
  if (warm.empty()) return;
  say(fmt::format("latency of a batch of {}: median {:.2f} ms, p90 {:.2f} ms, over {}", o.batch,
                  quantile(warm, 0.5), quantile(warm, 0.9), warm.size()));
  say(fmt::format(
      "memory: {:.0f} MiB planned, {:.0f} MiB {}", mib(double(costs.planned)),
      mib(double(costs.used)),
      ranks.kind == BackendKind::cuda ? "in use on the device" : "resident in this process"));
  constexpr double kLimits = 0.2;  // of the time
  const double waited = costs.waited / std::max(costs.seconds, 1e-9);
  say(
      fmt::format("{} images in {:.1f} s, {:.1f} images/s{}; {:.0f}% of the time was spent waiting "
                  "for images: the limit is {}",
                  costs.images, costs.longest, double(costs.images) / std::max(costs.longest, 1e-9),
                  ranks.count() > 1 ? fmt::format(" on {} ranks", ranks.count()) : "", 100 * waited,
                  waited > kLimits ? "reading them (--workers)" : "computing"));
}

}  // namespace

int predict(const Command& command) {
  const auto options = parse_options<PredictOptions>(command);
  if (!options) return 0;
  const PredictOptions& o = *options;
  const PredictionForm form = form_of(o);
  const ModelFile file = read_model_file(o.weights, o.model, o.weights_key);
  require(file.class_count > 0, Failure::weights, "{} has no head", o.weights.string());
  require(!o.calibrated || file.decisions.temperature, Failure::weights,
          "--calibrated: {} tells no temperature", o.weights.string());
  require(o.top == 1 || file.task == Task::classes, Failure::usage,
          "--top: of several labels those are named that reach their thresholds");
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, o, 0);
  say(describe(preprocess));
  const Graph graph = make_model(file, preprocess.crop);
  const Head head = head_of(graph);
  require(o.explain.empty() || head.pool, Failure::usage,
          "--explain: {} does not end in a global average and a linear layer, so it has no class "
          "activation maps",
          file.model);
  require(o.explain_class.empty() || !o.explain.empty(), Failure::usage,
          "--explain-class goes with --explain");
  const int explained = find_class(o.explain_class, file);
  const Inputs inputs = find_inputs(o.files, std::cin);
  for (const FileCount& count : inputs.files) say(describe(count));
  const Ranks ranks = choose_ranks(o);

  const auto below = reject_below(o, file);

  catch_stop_signals();
  Outputs outputs{.text = PredictionText(file.classes, file.class_count,
                                         {form, o.top, o.probabilities, below},
                                         thresholds_of(o, file))};
  if (!o.out.empty()) outputs.file.emplace(o.out);
  if (!o.embeddings.empty()) outputs.features.emplace(o.embeddings, head.linear->in.at.channels());
  if (!o.explain.empty()) {
    const Buffer& b = graph.buffers[head.pool->in.at.buffer];
    outputs.explanation.emplace(o.explain, b.height, b.width, file.classes,
                                shared_file("DejaVuSans.ttf"));
  }
  outputs.write(outputs.text.head());
  // A rank may be two steps of all ranks ahead.
  InOrder<std::vector<Predicted>> order(
      int64_t{2} * o.batch * ranks.count(),
      [&](std::vector<Predicted>&& images) { outputs.take(std::move(images)); });
  const Job job{o, file, inputs.data, preprocess, ranks, graph, explained, outputs, order};
  Costs costs;
  const auto steps = steps_per_epoch(static_cast<int64_t>(inputs.data.samples.size()), o.batch,
                                     {0, ranks.count()});
  if (!o.out.empty()) costs.progress.emplace("prediction", steps * ranks.count());
  on_every_rank(ranks, [&](int rank) {
    try {
      Predictor(job, rank).run(costs);
    } catch (...) {
      order.abort();
      throw;
    }
  });
  outputs.commit();
  if (costs.progress) costs.progress->clear();
  say_costs(costs, o, ranks);
  if (below && file.task == Task::labels)
    say(fmt::format("{} of {} labels of {} images not answered: their confidence is below {:.3f}",
                    outputs.withheld, costs.images * file.class_count, costs.images, *below));
  else if (below)
    say(fmt::format("{} of {} images not answered: their probability is below {:.3f}",
                    outputs.withheld, costs.images, *below));
  for (const auto& [index, reason] : costs.bad) say_error(reason);
  for (const std::string& pattern : inputs.unmatched) say_error(pattern + ": no file matches");
  return costs.bad.empty() && inputs.unmatched.empty() ? 0 : static_cast<int>(Failure::data);
}

}  // namespace engine
