#include "tools/score/label_score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "engine/measures/precision_recall.h"
#include "engine/measures/roc.h"
#include "io/files/atomic_file.h"
#include "io/files/csv.h"
#include "tools/machine/cores.h"
#include "tools/score/score_files.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

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

// Those at the positions.
CountedLabels chosen(const CountedLabels& from, std::span<const size_t> samples, size_t labels) {
  CountedLabels of;
  for (const size_t i : samples) {
    const auto add = [&](auto& to, const auto& all) {
      const auto row = all.begin() + std::ptrdiff_t(i * labels);
      to.insert(to.end(), row, row + std::ptrdiff_t(labels));
    };
    add(of.logits, from.logits);
    add(of.presence, from.presence);
  }
  return of;
}

// Sets the metrics and the intervals of a score or of a subgroup.
void measure(const CountedLabels& of, std::span<const double> thresholds,
             const BootstrapOptions& drawing, std::span<const uint32_t> groups, auto& scored) {
  const int labels = static_cast<int>(thresholds.size());
  scored.metrics = evaluate_labels(of.logits, of.presence, labels, thresholds);
  if (drawing.resamples > 0 && scored.metrics.samples > 0)
    scored.intervals =
        bootstrap_label_intervals(of.logits, of.presence, labels, thresholds, drawing, groups);
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
      text += fmt::format(",{}", p);
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

LabelAverages figures_of(const LabelMetrics& l) {
  return {l.auc,
          l.average_precision,
          l.called.sensitivity(),
          l.called.specificity(),
          l.called.precision(),
          l.f1()};
}

LabelScore score_labels(const EvaluationResult& result, const Dataset& data,
                        const std::optional<Thresholds>& thresholds, const ScoreOptions& options) {
  const CountedLabels counted = counted_labels(result, data);
  LabelScore scored{.chosen_here = !thresholds, .options = options};
  scored.thresholds =
      thresholds ? *thresholds : choose_thresholds(counted, data.classes, options.rule);
  const std::vector<double> values = threshold_values(scored.thresholds, data.classes);
  const BootstrapOptions drawing{
      .resamples = options.resamples, .seed = options.seed, .threads = available_cores()};
  const std::vector<uint32_t> groups = group_numbers(result, data);
  measure(counted, values, drawing, groups, scored);
  for (const Column& column : options.by) {
    LabelSubgroupTable table{.column = column.name};
    for (const ValueSamples& of : samples_by_value(column, result, groups)) {
      LabelSubgroup row{.value = of.value, .groups = of.group_count};
      measure(chosen(counted, of.samples, values.size()), values, drawing, of.groups, row);
      table.rows.push_back(std::move(row));
    }
    scored.by.push_back(std::move(table));
  }
  return scored;
}

Metrics epoch_metrics_of_labels(const EvaluationResult& result, const Dataset& data) {
  const CountedLabels counted = counted_labels(result, data);
  const MultilabelMetrics of =
      evaluate_labels(counted.logits, counted.presence, static_cast<int>(data.classes.size()));
  Metrics m;
  m.samples = of.samples;
  m.loss = of.loss.value_or(0);
  m.top1 = of.subset_accuracy.value_or(0);
  m.top5 = NAN;
  m.auc_macro = of.macro.auc;
  return m;
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
