// engine predict: the class of each image.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/metrics.h"
#include "tools/engine/device.h"
#include "tools/engine/evaluation.h"
#include "tools/engine/input.h"
#include "tools/engine/model_file.h"
#include "tools/engine/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct PredictOptions : DeviceOptions, PreprocessOptions {
  std::vector<std::string> files;
  std::filesystem::path weights;
  std::string model;
  int batch = 16;
  bool json = false;

  void visit(auto& v) {
    v("FILES", files, "images", kRequired);
    v("--weights FILE", weights, "safetensors or .pth", kRequired);
    v("--model NAME", model, "needed where the file does not name it");
    v("-b, --batch-size N", batch, "images per step", Within{1, 65536});
    v("--json", json, "one JSON object per image to stdout, with the logits");
    visit_preprocess(v);
    visit_device(v);
  }
};

std::string report(const std::string& path, std::span<const float> logits,
                   const std::vector<std::string>& classes, bool as_json) {
  const int best =
      static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<double> probabilities(logits.size());
  cross_entropy(logits, best, probabilities);
  const std::string name = classes.empty() ? std::to_string(best) : classes[best];
  if (!as_json) return fmt::format("{}: {} ({:.1f}%)\n", path, name, 100 * probabilities[best]);
  const nlohmann::ordered_json json = {
      {"path", path},
      {"class", name},
      {"class_index", best},
      {"probability", probabilities[best]},
      {"logits", std::vector<float>(logits.begin(), logits.end())}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

}  // namespace

int predict(const Command& command) {
  const auto options = parse_options<PredictOptions>(command);
  if (!options) return 0;
  const PredictOptions& o = *options;
  const ModelFile file = read_model_file(o.weights, o.model);
  require(file.class_count > 0, Failure::weights, "{} has no head", o.weights.string());
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, o, 0);
  say(describe(preprocess));
  Dataset data;
  for (const std::string& path : o.files) data.samples.push_back({path});

  Inference inference(file, data, preprocess, o, o.batch);
  Session& session = inference.session();
  Loader& loader = inference.loader();
  loader.start(0);
  while (const Batch* batch = loader.next()) {
    const std::vector<float> logits =
        session.evaluate({batch->images, batch->labels, batch->count}, {});
    for (int i = 0; i < batch->count; ++i)
      print_to_stdout(
          report(o.files[batch->first + i],
                 std::span(logits).subspan(size_t(i) * file.class_count, file.class_count),
                 file.classes, o.json));
  }
  return 0;
}

}  // namespace engine
