// engine predict: the class of each image.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/measures/metrics.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/bench/step.h"
#include "tools/cli/terminal.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/predict_labels.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"
#include "tools/score/evaluation.h"
#include "tools/score/model_file.h"

namespace engine {
namespace {

struct PredictOptions : DeviceOptions, PreprocessOptions, WeightsKeyOption {
  std::vector<std::string> files;
  std::filesystem::path weights;
  std::string model;
  int batch = 16;
  bool json = false, csv = false;

  void visit(auto& v) {
    v("FILES", files, "images, or folders of them", kRequired);
    v("--weights FILE", weights, "safetensors or .pth", kRequired);
    v("--model NAME", model, "needed where the file does not name it", known_models());
    visit_weights_key(v);
    v("-b, --batch-size N", batch, "images per step", Within{1, 65536});
    v("--json", json, "one JSON object per image to stdout, with the logits");
    v("--csv", csv, "a table to stdout: path, class, class_index, probability");
    visit_preprocess(v);
    visit_device(v);
  }
};

constexpr char kCsvHead[] = "path,class,class_index,probability\n";

PredictFormat format_of(const PredictOptions& o) {
  return o.json ? PredictFormat::json : o.csv ? PredictFormat::csv : PredictFormat::text;
}

std::string report(const std::string& path, std::span<const float> logits, const ModelFile& file,
                   const PredictOptions& o) {
  const std::vector<std::string>& classes = file.classes;
  if (file.task == Task::labels)
    return label_line(path, logits, output_names(classes, file.class_count), file.thresholds,
                      format_of(o));
  const int best =
      static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<double> probabilities(logits.size());
  cross_entropy(logits, best, probabilities);
  const std::string name = classes.empty() ? std::to_string(best) : classes[best];
  if (o.csv)
    return fmt::format("{},{},{},{:.6f}\n", csv_field(path), csv_field(name), best,
                       probabilities[best]);
  if (!o.json) return fmt::format("{}: {} ({:.1f}%)\n", path, name, 100 * probabilities[best]);
  const nlohmann::ordered_json json = {
      {"path", utf8_from_bytes(path)},
      {"class", utf8_from_bytes(name)},
      {"class_index", best},
      {"probability", probabilities[best]},
      {"logits", std::vector<float>(logits.begin(), logits.end())}};
  return print_json(json) + '\n';
}

// The files, and the images below those that are folders.
Dataset images_of(const std::vector<std::string>& files) {
  Dataset data;
  for (const std::string& path : files) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      data.samples.push_back({path});
      continue;
    }
    FileCount count{.where = path};
    for (std::string& image : list_images(path, &count.ignored)) {
      data.samples.push_back({std::move(image)});
      ++count.images;
    }
    if (!count.ignored.empty()) say(describe(count));
  }
  require(!data.samples.empty(), Failure::data, "{}: no images in it", fmt::join(files, " "));
  return data;
}

// Null also where no image at all can be read: then each is named, and none has a line.
const Batch* next_batch(Loader& loader, const Dataset& data) {
  try {
    return loader.next();
  } catch (const Error&) {
    if (loader.bad_images().size() < data.samples.size()) throw;
    return nullptr;
  }
}

// Says latency and memory. The first batch warms caches up and counts only if it is the only one.
void say_costs(Session& session, std::span<const double> milliseconds, int batch) {
  const auto warm = milliseconds.subspan(milliseconds.size() > 1 ? 1 : 0);
  if (warm.empty()) return;
  const auto mib = [](size_t bytes) { return double(bytes) / 0x1p20; };
  say(fmt::format("latency of a batch of {}: median {:.2f} ms, p90 {:.2f} ms, over {}", batch,
                  quantile(warm, 0.5), quantile(warm, 0.9), warm.size()));
  say(fmt::format("memory: {:.0f} MiB planned, {:.0f} MiB {}", mib(session.allocated_bytes()),
                  mib(used_bytes(session.backend(), 0)),
                  session.backend().info().kind == BackendKind::cuda ? "in use on the device"
                                                                     : "resident in this process"));
}

}  // namespace

int predict(const Command& command) {
  const auto options = parse_options<PredictOptions>(command);
  if (!options) return 0;
  const PredictOptions& o = *options;
  require(!o.json || !o.csv, Failure::usage, "--json and --csv: one of them");
  const ModelFile file = read_model_file(o.weights, o.model, o.weights_key);
  require(file.class_count > 0, Failure::weights, "{} has no head", o.weights.string());
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, o, 0);
  say(describe(preprocess));
  const Dataset data = images_of(o.files);

  // An image that cannot be read is named in the end; the others have their lines.
  Inference inference(file, data, preprocess, o, o.batch, OnBadImage::skip);
  Session& session = inference.session();
  Loader& loader = inference.loader();
  std::vector<double> milliseconds;  // per batch, from bytes in host memory to logits there
  session.prepare();
  loader.start(0);
  if (o.csv)
    print_to_stdout(file.task == Task::labels
                        ? label_csv_head(output_names(file.classes, file.class_count))
                        : kCsvHead);
  for (const Batch* batch = next_batch(loader, data); batch; batch = next_batch(loader, data)) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<float> logits =
        session.evaluate({batch->images, batch->labels, batch->count}, {});
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - start;
    milliseconds.push_back(taken.count());
    for (int i = 0; i < batch->count; ++i) {
      const auto row = std::span(logits).subspan(size_t(i) * file.class_count, file.class_count);
      if (!batch->substituted[i] &&
          std::ranges::all_of(row, [](float z) { return std::isfinite(z); }))
        print_to_stdout(report(data.samples[batch->first + i].path, row, file, o));
    }
    require_finite_logits(session, *batch, logits, data);
  }
  say_costs(session, milliseconds, o.batch);
  const std::vector<BadImage> bad = loader.bad_images();
  for (const BadImage& image : bad) say_error(image.reason);
  return bad.empty() ? 0 : static_cast<int>(Failure::data);
}

}  // namespace engine
