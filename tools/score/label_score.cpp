#include "tools/score/label_score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/measures/precision_recall.h"
#include "engine/measures/roc.h"
#include "io/files/atomic_file.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/machine/cores.h"
#include "tools/score/interval_json.h"
#include "tools/score/number_or_null.h"
#include "tools/score/score_files.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kUsualThreshold = 0.5;

struct CountedLabels {
  std::vector<float> logits;       // (samples, labels)
  std::vector<Presence> presence;  // (samples, labels)
};

CountedLabels counted_labels(const EvaluationResult& result, const Dataset& data) {
  CountedLabels counted;
  counted.logits = counted_samples(result, data).logits;
  for (size_t i = 0; i < data.samples.size(); ++i)
    if (result.counted[i])
      counted.presence.insert(counted.presence.end(), data.samples[i].labels.begin(),
                              data.samples[i].labels.end());
  return counted;
}

Thresholds choose_thresholds(const CountedLabels& counted, std::span<const std::string> labels,
                             const ThresholdRule& rule) {
  Thresholds thresholds{.rule = to_string(rule)};
  const auto chosen = choose_label_thresholds(counted.logits, counted.presence,
                                              static_cast<int>(labels.size()), rule);
  for (size_t c = 0; c < labels.size(); ++c)
    thresholds.classes.push_back(chosen[c] ? ClassThreshold{labels[c], chosen[c]->threshold,
                                                            chosen[c]->sensitivity,
                                                            chosen[c]->specificity}
                                           : ClassThreshold{.name = labels[c]});
  return thresholds;
}

std::string number_or_dash(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

Json to_json(const LabelAverages& a) {
  return {{"auc", number_or_null(a.auc)},
          {"average_precision", number_or_null(a.average_precision)},
          {"sensitivity", number_or_null(a.sensitivity)},
          {"specificity", number_or_null(a.specificity)},
          {"precision", number_or_null(a.precision)},
          {"f1", number_or_null(a.f1)}};
}

Json to_json(const LabelIntervals& i) {
  return {{"auc", to_json(i.auc)},
          {"average_precision", to_json(i.average_precision)},
          {"recall", to_json(i.sensitivity)},
          {"sensitivity", to_json(i.sensitivity)},
          {"specificity", to_json(i.specificity)},
          {"precision", to_json(i.precision)},
          {"f1", to_json(i.f1)}};
}

Json to_json(const MultilabelIntervals& i, const ScoreOptions& options) {
  Json json = drawing_json(i.units, i.grouped, options);
  json.update({{"loss", to_json(i.loss)},
               {"subset_accuracy", to_json(i.subset_accuracy)},
               {"hamming_loss", to_json(i.hamming_loss)},
               {"auc_macro", to_json(i.macro.auc)},
               {"auc_micro", to_json(i.micro.auc)},
               {"average_precision_macro", to_json(i.macro.average_precision)},
               {"f1_macro", to_json(i.macro.f1)},
               {"macro", to_json(i.macro)},
               {"micro", to_json(i.micro)}});
  return json;
}

LabelAverages figures_of(const LabelMetrics& l) {
  return {l.auc,
          l.average_precision,
          l.called.sensitivity(),
          l.called.specificity(),
          l.called.precision(),
          l.f1()};
}

std::string predictions(const EvaluationResult& result, const Dataset& data) {
  const bool grouped =
      std::ranges::any_of(data.samples, [](const Sample& sample) { return !sample.group.empty(); });
  std::string text = grouped ? "path,group" : "path";
  for (const std::string& name : data.classes) text += ',' + csv_field(kLabelColumn + name);
  for (const std::string& name : data.classes) text += ',' + csv_field("p:" + name);
  text += '\n';
  const size_t labels = data.classes.size();
  for (size_t i = 0; i < data.samples.size(); ++i) {
    if (!result.counted[i]) continue;
    const Sample& sample = data.samples[i];
    text += csv_field(sample.path);
    if (grouped) text += ',' + csv_field(sample.group);
    for (const Presence presence : sample.labels) text += fmt::format(",{}", text_of(presence));
    for (const double p : sigmoids(std::span(result.logits).subspan(i * labels, labels)))
      text += fmt::format(",{:.9g}", p);
    text += '\n';
  }
  return text;
}

// A line per point of the curve of each label, and of all known entries together.
template <class Curve>
std::string curves(const CountedLabels& counted, std::span<const std::string> labels,
                   const char* header, Curve curve) {
  const std::vector<double> p = sigmoids(counted.logits);
  const int count = static_cast<int>(labels.size());
  std::string text = header;
  const auto add = [&](const std::string& name, const LabelScores& of) {
    for (const std::string& line : curve(rank_scores(of.scores, of.positive)))
      text += csv_field(name) + line + '\n';
  };
  for (int c = 0; c < count; ++c) add(labels[size_t(c)], scores_of(p, counted.presence, count, c));
  add("(micro)", all_scores(p, counted.presence));
  return text;
}

std::vector<std::string> roc_lines(std::span<const RankedStep> steps) {
  std::vector<std::string> lines;
  for (const RocPoint& point : roc_curve(steps, kCurvePoints))
    lines.push_back(fmt::format(",{:.6g},{:.6g},{:.6g}", point.threshold, point.false_positive_rate,
                                point.true_positive_rate));
  return lines;
}

std::vector<std::string> pr_lines(std::span<const RankedStep> steps) {
  std::vector<std::string> lines;
  for (const PrecisionRecall& point : precision_recall_curve(steps, kCurvePoints))
    lines.push_back(
        fmt::format(",{:.6g},{:.6g},{:.6g}", point.threshold, point.precision, point.recall));
  return lines;
}

}  // namespace

std::vector<double> threshold_values(const Thresholds& thresholds,
                                     std::span<const std::string> labels) {
  std::vector<double> values;
  for (const std::string& name : labels) {
    const auto at = std::ranges::find(thresholds.classes, name, &ClassThreshold::name);
    values.push_back(at == thresholds.classes.end() ? kUsualThreshold
                                                    : at->threshold.value_or(kUsualThreshold));
  }
  return values;
}

LabelScore score_labels(const EvaluationResult& result, const Dataset& data,
                        const std::optional<Thresholds>& thresholds, const ScoreOptions& options) {
  const CountedLabels counted = counted_labels(result, data);
  LabelScore scored{.chosen_here = !thresholds, .options = options};
  scored.thresholds =
      thresholds ? *thresholds : choose_thresholds(counted, data.classes, options.rule);
  const int labels = static_cast<int>(data.classes.size());
  const std::vector<double> values = threshold_values(scored.thresholds, data.classes);
  scored.metrics = evaluate_labels(counted.logits, counted.presence, labels, values);
  if (options.resamples > 0 && scored.metrics.samples > 0)
    scored.intervals = bootstrap_label_intervals(
        counted.logits, counted.presence, labels, values,
        {.resamples = options.resamples, .seed = options.seed, .threads = available_cores()},
        group_numbers(result, data));
  return scored;
}

Metrics epoch_metrics_of_labels(const EvaluationResult& result, const Dataset& data) {
  const CountedLabels counted = counted_labels(result, data);
  const MultilabelMetrics of =
      evaluate_labels(counted.logits, counted.presence, static_cast<int>(data.classes.size()));
  Metrics m;
  m.samples = of.samples;
  m.loss = of.loss;
  m.top1 = of.subset_accuracy.value_or(0);
  m.top5 = NAN;
  m.auc_macro = of.macro.auc;
  return m;
}

Json to_json(const LabelScore& score, std::span<const std::string> labels) {
  const MultilabelMetrics& m = score.metrics;
  Json json = {{"task", kMultilabel},
               {"samples", m.samples},
               {"missing", m.missing},
               {"loss", m.loss},
               {"subset_accuracy", number_or_null(m.subset_accuracy)},
               {"hamming_loss", number_or_null(m.hamming_loss)},
               {"auc_macro", number_or_null(m.macro.auc)},
               {"auc_micro", number_or_null(m.micro.auc)},
               {"average_precision_macro", number_or_null(m.macro.average_precision)},
               {"macro", to_json(m.macro)},
               {"micro", to_json(m.micro)},
               {"thresholds", parse_json<Json>(to_json(score.thresholds))}};
  if (score.intervals) json["intervals"] = to_json(*score.intervals, score.options);
  json["thresholds"]["chosen_here"] = score.chosen_here;
  for (size_t c = 0; c < labels.size(); ++c) {
    const LabelMetrics& l = m.labels[c];
    Json label = {{"name", utf8_from_bytes(labels[c])},
                  {"positives", l.positives},
                  {"negatives", l.negatives},
                  {"missing", l.missing},
                  {"loss", number_or_null(l.loss)},
                  {"threshold", l.threshold},
                  {"true_positives", l.called.true_positives},
                  {"false_positives", l.called.false_positives},
                  {"true_negatives", l.called.true_negatives},
                  {"false_negatives", l.called.false_negatives}};
    label.update(to_json(figures_of(l)));
    if (score.intervals) label["intervals"] = to_json(score.intervals->labels[c]);
    json["labels"].push_back(std::move(label));
  }
  return json;
}

std::string table(const LabelScore& score, std::span<const std::string> labels) {
  const MultilabelMetrics& m = score.metrics;
  std::string text =
      fmt::format("{} images, {} labels, {} of {} entries missing; thresholds {} ({})\n", m.samples,
                  labels.size(), m.missing, m.samples * int64_t(labels.size()),
                  score.chosen_here ? "chosen on these images" : "of the validation images",
                  score.thresholds.rule);
  const MultilabelIntervals none, &i = score.intervals ? *score.intervals : none;
  if (score.intervals)
    text += fmt::format("{:.0f}% intervals in brackets{}\n", 100 * kLevel,
                        i.grouped ? fmt::format(", by {} groups", i.units) : "");
  const auto line = [&](std::string_view name, const std::optional<double>& value,
                        const FigureInterval& bounds) {
    text += fmt::format("  {:<20} {:>7}", name, number_or_dash(value));
    if (bounds) text += fmt::format("  [{:.4f}, {:.4f}]", bounds->low, bounds->high);
    text += '\n';
  };
  line("loss", m.loss, i.loss);
  line("all labels right", m.subset_accuracy, i.subset_accuracy);
  line("Hamming loss", m.hamming_loss, i.hamming_loss);
  line("macro AUC", m.macro.auc, i.macro.auc);
  line("macro AP", m.macro.average_precision, i.macro.average_precision);

  size_t width = 16;
  for (const std::string& name : labels) width = std::max(width, name.size());
  text += fmt::format("  {:<{}} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>11} {:>11} {:>9} {:>7}\n",
                      "label", width, "present", "absent", "missing", "AUC", "AP", "threshold",
                      "sensitivity", "specificity", "precision", "F1");
  const auto row = [&](std::string_view name, const std::string& counts,
                       const std::string& threshold, const LabelAverages& a) {
    text += fmt::format("  {:<{}} {} {:>7} {:>7} {:>9} {:>11} {:>11} {:>9} {:>7}\n", name, width,
                        counts, number_or_dash(a.auc), number_or_dash(a.average_precision),
                        threshold, number_or_dash(a.sensitivity), number_or_dash(a.specificity),
                        number_or_dash(a.precision), number_or_dash(a.f1));
  };
  const auto counts = [](int64_t present, int64_t absent, int64_t missing) {
    return fmt::format("{:>7} {:>7} {:>7}", present, absent, missing);
  };
  int64_t present = 0, absent = 0;
  for (size_t c = 0; c < labels.size(); ++c) {
    const LabelMetrics& l = m.labels[c];
    row(labels[c], counts(l.positives, l.negatives, l.missing), fmt::format("{:.4f}", l.threshold),
        figures_of(l));
    present += l.positives, absent += l.negatives;
  }
  row("macro average", std::string(23, ' '), "", m.macro);
  row("micro average", counts(present, absent, m.missing), "", m.micro);
  return text;
}

LabelScore write_label_score(const fs::path& folder, const EvaluationResult& result,
                             const Dataset& data, const std::optional<Thresholds>& thresholds,
                             const ScoreOptions& options) {
  const LabelScore scored = score_labels(result, data, thresholds, options);
  write_metrics(folder, options.part, to_json(scored, data.classes));
  const auto write = [&](const char* name, std::string_view text) {
    write_file_atomically(folder / (options.prefix + name), text);
  };
  const CountedLabels counted = counted_labels(result, data);
  write("predictions.csv", predictions(result, data));
  write("roc.csv", curves(counted, data.classes,
                          "class,threshold,false_positive_rate,true_positive_rate\n", roc_lines));
  write("pr.csv", curves(counted, data.classes, "class,threshold,precision,recall\n", pr_lines));
  return scored;
}

}  // namespace engine
