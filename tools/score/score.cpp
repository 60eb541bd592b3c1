#include "tools/score/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/measures/roc.h"
#include "io/files/atomic_file.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/machine/cores.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kMetricsFile[] = "metrics.json";
constexpr size_t kRocPoints = 200;   // per class: more than a plot shows
constexpr size_t kFewClasses = 100;  // of which predictions.csv always has the probabilities

Json number_or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

// Path, label, prediction and numbers of each sample that counts, in the order of the data set.
std::string predictions(const EvaluationResult& result, const Dataset& data, bool probabilities) {
  std::string text = "path,label,prediction,p_prediction,p_label,loss";
  const size_t classes = data.classes.size();
  probabilities = probabilities || classes <= kFewClasses;
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

std::string confusion_matrix(const Metrics& m, std::span<const std::string> classes) {
  std::string text = "label";
  for (const std::string& name : classes) text += ',' + csv_field(name);
  text += '\n';
  for (size_t label = 0; label < classes.size(); ++label)
    text += fmt::format(
        "{},{}\n", csv_field(classes[label]),
        fmt::join(std::span(m.confusion).subspan(label * classes.size(), classes.size()), ","));
  return text;
}

std::string roc_curves(const EvaluationResult& result, const Dataset& data) {
  const CountedSamples counted = counted_samples(result, data);
  const size_t classes = data.classes.size(), samples = counted.labels.size();
  const std::vector<double> p = softmax_rows(counted.logits, static_cast<int>(classes));
  std::string text = "class,threshold,false_positive_rate,true_positive_rate\n";
  const auto add = [&](const std::string& name, std::span<const double> scores,
                       std::span<const uint8_t> positive) {
    for (const RocPoint& point : roc_curve(scores, positive, kRocPoints))
      text += fmt::format("{},{:.6g},{:.6g},{:.6g}\n", csv_field(name), point.threshold,
                          point.false_positive_rate, point.true_positive_rate);
  };
  std::vector<double> scores(samples);
  std::vector<uint8_t> positive(samples), all(samples * classes);
  for (size_t c = 0; c < classes; ++c) {
    for (size_t i = 0; i < samples; ++i) {
      scores[i] = p[i * classes + c];
      positive[i] = all[i * classes + c] = size_t(counted.labels[i]) == c;
    }
    add(data.classes[c], scores, positive);
  }
  add("(micro)", p, all);
  return text;
}

Json to_json(const Averages& a) {
  return {{"precision", a.precision},
          {"recall", a.recall},
          {"f1", a.f1},
          {"specificity", a.specificity}};
}

Json to_json(const ConfidenceInterval& i) {
  return Json::array({i.low, i.high});
}

std::string optional_number(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

}  // namespace

Score score(const EvaluationResult& result, const Dataset& data, const ScoreOptions& options) {
  const CountedSamples counted = counted_samples(result, data);
  const int classes = static_cast<int>(data.classes.size());
  Score scored{evaluate_logits(counted.logits, counted.labels, classes), std::nullopt, options};
  if (options.resamples > 0 && !counted.labels.empty())
    scored.intervals = bootstrap_intervals(
        counted.logits, counted.labels, classes,
        {.resamples = options.resamples, .seed = options.seed, .threads = available_cores()});
  return scored;
}

Json to_json(const Score& score, std::span<const std::string> classes) {
  const Metrics& m = score.metrics;
  Json json = {{"samples", m.samples},
               {"loss", m.loss},
               {"top1", m.top1},
               {"top5", m.top5},
               {"auc_macro", number_or_null(m.auc_macro)},
               {"auc_micro", number_or_null(m.auc_micro)},
               {"balanced_accuracy", m.balanced_accuracy},
               {"macro", to_json(m.macro)},
               {"weighted", to_json(m.weighted)},
               {"calibration_error", m.calibration_error}};
  if (score.intervals) {
    const ConfidenceIntervals& i = *score.intervals;
    json["intervals"] = {{"level", BootstrapOptions{}.level},
                         {"resamples", score.options.resamples},
                         {"seed", score.options.seed},
                         {"top1", to_json(i.top1)},
                         {"f1_macro", to_json(i.f1_macro)},
                         {"auc_macro", i.auc_macro ? to_json(*i.auc_macro) : Json()}};
  }
  for (int i = 0; i < kCalibrationBins; ++i)
    json["calibration"].push_back({{"from", double(i) / kCalibrationBins},
                                   {"to", double(i + 1) / kCalibrationBins},
                                   {"samples", m.calibration[i].samples},
                                   {"confidence", m.calibration[i].confidence},
                                   {"accuracy", m.calibration[i].accuracy}});
  for (size_t c = 0; c < classes.size(); ++c) {
    const ClassMetrics& k = m.classes[c];
    json["classes"].push_back({{"name", utf8_from_bytes(classes[c])},
                               {"support", k.support},
                               {"predicted", k.predicted},
                               {"precision", k.precision},
                               {"recall", k.recall},
                               {"specificity", k.specificity},
                               {"f1", k.f1},
                               {"auc", number_or_null(k.auc)}});
  }
  return json;
}

std::string table(const Score& score, std::span<const std::string> classes) {
  const Metrics& m = score.metrics;
  std::string text = fmt::format("{} images, {:.0f}% intervals in brackets\n", m.samples,
                                 100 * BootstrapOptions{}.level);
  if (!score.intervals) text = fmt::format("{} images\n", m.samples);
  const auto line = [&](std::string_view name, const std::optional<double>& value,
                        const std::optional<ConfidenceInterval>& interval = std::nullopt) {
    text += fmt::format("  {:<20} {:>7}", name, optional_number(value));
    if (interval) text += fmt::format("  [{:.4f}, {:.4f}]", interval->low, interval->high);
    text += '\n';
  };
  const auto& i = score.intervals;
  line("loss", m.loss);
  line("top-1", m.top1, i ? std::optional(i->top1) : std::nullopt);
  line("top-5", m.top5);
  line("balanced accuracy", m.balanced_accuracy);
  line("macro F1", m.macro.f1, i ? std::optional(i->f1_macro) : std::nullopt);
  line("weighted F1", m.weighted.f1);
  line("macro AUC", m.auc_macro, i ? i->auc_macro : std::nullopt);
  line("micro AUC", m.auc_micro);
  line("calibration error", m.calibration_error);

  size_t width = 16;
  for (const std::string& name : classes) width = std::max(width, name.size());
  const auto row = [&](std::string_view name, int64_t images, const Averages& a,
                       const std::optional<double>& auc) {
    text += fmt::format("  {:<{}} {:>7} {:>9.4f} {:>7.4f} {:>11.4f} {:>7.4f} {:>7}\n", name, width,
                        images, a.precision, a.recall, a.specificity, a.f1, optional_number(auc));
  };
  text += fmt::format("  {:<{}} {:>7} {:>9} {:>7} {:>11} {:>7} {:>7}\n", "class", width, "images",
                      "precision", "recall", "specificity", "F1", "AUC");
  for (size_t c = 0; c < classes.size(); ++c) {
    const ClassMetrics& k = m.classes[c];
    row(classes[c], k.support, {k.precision, k.recall, k.f1, k.specificity}, k.auc);
  }
  row("macro average", m.samples, m.macro, m.auc_macro);
  row("weighted average", m.samples, m.weighted, std::nullopt);
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

Score write_score(const fs::path& folder, const EvaluationResult& result, const Dataset& data,
                  const ScoreOptions& options) {
  const Score scored = score(result, data, options);
  write_metrics(folder, options.part, to_json(scored, data.classes));
  const auto write = [&](const char* name, std::string_view text) {
    write_file_atomically(folder / (options.prefix + name), text);
  };
  write("predictions.csv", predictions(result, data, options.probabilities));
  write("confusion_matrix.csv", confusion_matrix(scored.metrics, data.classes));
  write("roc.csv", roc_curves(result, data));
  return scored;
}

}  // namespace engine
