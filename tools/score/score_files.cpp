#include "tools/score/score_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/measures/precision_recall.h"
#include "engine/measures/roc.h"
#include "io/files/atomic_file.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "tools/score/score.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kMetricsFile[] = "metrics.json";
constexpr size_t kClassesInPredictions = 100;  // that have a column each without being asked for

// Calls line(name, steps) for each class, and for "(micro)": all pairs of sample and class.
template <class Line>
void rank_each(const EvaluationResult& result, const Dataset& data, Line line) {
  const CountedSamples counted = counted_samples(result, data);
  const size_t classes = data.classes.size(), samples = counted.labels.size();
  const std::vector<double> p = softmax_rows(counted.logits, static_cast<int>(classes));
  std::vector<double> scores(samples);
  std::vector<uint8_t> positive(samples), all(samples * classes);
  for (size_t c = 0; c < classes; ++c) {
    for (size_t i = 0; i < samples; ++i) {
      scores[i] = p[i * classes + c];
      positive[i] = all[i * classes + c] = size_t(counted.labels[i]) == c;
    }
    line(data.classes[c], rank_scores(scores, positive));
  }
  line("(micro)", rank_scores(p, all));
}

}  // namespace

std::string predictions_csv(const EvaluationResult& result, const Dataset& data,
                            bool probabilities) {
  std::string text = "path,label,prediction,p_prediction,p_label,loss";
  const size_t classes = data.classes.size();
  const bool grouped =
      std::ranges::any_of(data.samples, [](const Sample& s) { return !s.group.empty(); });
  if (grouped) text += ",group";
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
    if (grouped) text += ',' + csv_field(sample.group);
    if (probabilities)
      for (double share : p) text += fmt::format(",{:.9g}", share);
    text += '\n';
  }
  return text;
}

std::string confusion_csv(const Metrics& m, std::span<const std::string> classes) {
  std::string text = "label";
  for (const std::string& name : classes) text += ',' + csv_field(name);
  text += '\n';
  for (size_t label = 0; label < classes.size(); ++label)
    text += fmt::format(
        "{},{}\n", csv_field(classes[label]),
        fmt::join(std::span(m.confusion).subspan(label * classes.size(), classes.size()), ","));
  return text;
}

std::string roc_csv(const EvaluationResult& result, const Dataset& data) {
  std::string text = "class,threshold,false_positive_rate,true_positive_rate\n";
  rank_each(result, data, [&](const std::string& name, std::span<const RankedStep> steps) {
    for (const RocPoint& point : roc_curve(steps, kCurvePoints))
      text += fmt::format("{},{:.6g},{:.6g},{:.6g}\n", csv_field(name), point.threshold,
                          point.false_positive_rate, point.true_positive_rate);
  });
  return text;
}

std::string precision_recall_csv(const EvaluationResult& result, const Dataset& data) {
  std::string text = "class,threshold,precision,recall\n";
  rank_each(result, data, [&](const std::string& name, std::span<const RankedStep> steps) {
    for (const PrecisionRecall& point : precision_recall_curve(steps, kCurvePoints))
      text += fmt::format("{},{:.6g},{:.6g},{:.6g}\n", csv_field(name), point.threshold,
                          point.precision, point.recall);
  });
  return text;
}

void write_metrics(const fs::path& folder, const std::string& part, const Json& figures) {
  make_folder(folder);
  std::ifstream before(folder / kMetricsFile);
  Json all = json_or_null<Json>(std::string(std::istreambuf_iterator<char>(before), {}));
  if (!all.is_object()) all = Json::object();
  all[part] = figures;
  write_file_atomically(folder / kMetricsFile, print_json(all, 2) + '\n');
}

EvaluationResult as_scored(const EvaluationResult& result, const ScoreOptions& options) {
  EvaluationResult scored = result;
  if (options.calibrated && options.decisions.temperature)
    scored.logits = divided_by(result.logits, *options.decisions.temperature);
  return scored;
}

Score write_score(const fs::path& folder, const EvaluationResult& result, const Dataset& data,
                  const ScoreOptions& options) {
  const Score scored = score(result, data, options);
  write_metrics(folder, options.part, to_json(scored, data.classes));
  const EvaluationResult shown = as_scored(result, options);
  const auto write = [&](const char* name, std::string_view text) {
    write_file_atomically(folder / (options.prefix + name), text);
  };
  const bool few = data.classes.size() <= kClassesInPredictions;
  write("predictions.csv", predictions_csv(shown, data, few || options.probabilities));
  write("confusion_matrix.csv", confusion_csv(scored.metrics, data.classes));
  write("roc.csv", roc_csv(shown, data));
  write("pr.csv", precision_recall_csv(shown, data));
  return scored;
}

}  // namespace engine
