#include "tools/engine/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/error.h"
#include "io/atomic_file.h"
#include "io/bytes.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kMetricsFile[] = "metrics.json";

void replace(const fs::path& path, std::string_view text) {
  const std::span<const std::byte> parts[] = {as_bytes(text)};
  write_file_atomically(path, parts);
}

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

Json number_or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

// RFC 4180: in quotes where it holds a comma, a quote or a line end.
std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

// path, label, prediction and the numbers of each counted sample, in the order of the data set.
std::string predictions(const EvaluationResult& result, const Dataset& data, bool probabilities) {
  std::string text = "path,label,prediction,p_prediction,p_label,loss";
  const size_t classes = data.classes.size();
  if (probabilities)
    for (const std::string& name : data.classes) text += ',' + csv_field("p:" + name);
  text += '\n';
  std::vector<double> p(classes);
  for (size_t i = 0; i < data.samples.size(); ++i) {
    if (!result.counted[i]) continue;
    const Sample& sample = data.samples[i];
    const double loss =
        cross_entropy(std::span(result.logits).subspan(i * classes, classes), sample.label, p);
    const size_t best = std::max_element(p.begin(), p.end()) - p.begin();
    text += fmt::format("{},{},{},{:.9g},{:.9g},{:.9g}", csv_field(sample.path),
                        csv_field(data.classes[sample.label]), csv_field(data.classes[best]),
                        p[best], p[sample.label], loss);
    if (probabilities)
      for (double share : p) text += fmt::format(",{:.9g}", share);
    text += '\n';
  }
  return text;
}

}  // namespace

Score score(const EvaluationResult& result, const Dataset& data, const ScoreOptions&) {
  return {metrics_of(result, data)};
}

Json to_json(const Score& score, const Dataset&) {
  const Metrics& m = score.metrics;
  return {{"samples", m.samples},
          {"loss", m.loss},
          {"top1", m.top1},
          {"top5", m.top5},
          {"auc_macro", number_or_null(m.auc_macro)}};
}

std::string table(const Score& score, const Dataset&) {
  const Metrics& m = score.metrics;
  return fmt::format("{} images: loss {:.4f}, top-1 {:.4f}, top-5 {:.4f}, macro AUC {}\n",
                     m.samples, m.loss, m.top1, m.top5,
                     m.auc_macro ? fmt::format("{:.4f}", *m.auc_macro) : "-");
}

Score write_score(const fs::path& folder, const EvaluationResult& result, const Dataset& data,
                  const ScoreOptions& options) {
  fs::create_directories(folder);
  const Score scored = score(result, data, options);
  Json all = Json::object();
  if (std::ifstream in(folder / kMetricsFile); in) all = Json::parse(in, nullptr, false);
  if (!all.is_object()) all = Json::object();
  all[options.part] = to_json(scored, data);
  replace(folder / kMetricsFile, dump(all));
  replace(folder / (options.prefix + "predictions.csv"),
          predictions(result, data, options.probabilities));
  return scored;
}

}  // namespace engine
