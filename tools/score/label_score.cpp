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
#include "tools/score/score_files.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// What is scored of the samples that count.
struct Entries {
  CountedLabels counted;
  std::vector<double> thresholds;  // (samples, labels)
};

// Those at the positions.
Entries chosen(const Entries& from, std::span<const size_t> samples, size_t labels) {
  Entries of;
  for (const size_t i : samples) {
    const auto add = [&](auto& to, const auto& all) {
      const auto row = all.begin() + std::ptrdiff_t(i * labels);
      to.insert(to.end(), row, row + std::ptrdiff_t(labels));
    };
    add(of.counted.logits, from.counted.logits);
    add(of.counted.presence, from.counted.presence);
    add(of.thresholds, from.thresholds);
  }
  return of;
}

// Sets the metrics and the intervals of a score or of a subgroup.
void measure(const Entries& of, int labels, const BootstrapOptions& drawing,
             std::span<const uint32_t> groups, auto& scored) {
  const auto& [logits, presence] = of.counted;
  scored.metrics = evaluate_labels(logits, presence, labels, of.thresholds);
  if (drawing.resamples > 0 && scored.metrics.samples > 0)
    scored.intervals =
        bootstrap_label_intervals(logits, presence, labels, of.thresholds, drawing, groups);
}

// How often labels are present that are so probable.
Calibration calibration_of(const CountedLabels& of) {
  const LabelScores all = all_scores(sigmoids(of.logits), of.presence);
  return calibrate(all.scores, all.positive);
}

std::optional<Confidence> confidence_of(const CountedLabels& of, int labels) {
  const MultilabelMetrics m = evaluate_labels(of.logits, of.presence, labels);
  if (!m.loss) return std::nullopt;
  return Confidence{*m.loss, *m.brier, calibration_of(of)};
}

// Sets what is left where the least sure decisions are withheld.
void withhold(const Entries& of, size_t labels, const std::optional<std::vector<double>>& least,
              LabelScore& scored) {
  const std::vector<double> p = sigmoids(of.counted.logits);
  const std::vector<Presence>& presence = of.counted.presence;
  const Answers all = all_label_answers(p, presence, of.thresholds);
  scored.reject = reject_points(all);
  if (!least) return;
  // The decisions of every labels-th entry, from `first` on.
  const auto answered = [&](const Answers& answers, size_t first, size_t stride) {
    std::vector<double> from;
    for (size_t at = first; at < presence.size(); at += stride)
      if (presence[at] != Presence::missing) from.push_back((*least)[at / labels]);
    return answered_from(from, answers.confidences, answers.right);
  };
  scored.answered = answered(all, 0, 1);
  for (size_t c = 0; c < labels; ++c)
    scored.answered_labels.push_back(
        answered(label_answers(p, presence, of.thresholds, int(labels), int(c)), c, labels));
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

LabelAverages figures_of(const LabelMetrics& l) {
  return {l.auc,
          l.average_precision,
          l.called.sensitivity(),
          l.called.specificity(),
          l.called.precision(),
          l.f1()};
}

LabelScore score_labels(const EvaluationResult& result, const Dataset& data,
                        const ScoreOptions& options) {
  LabelScore scored;
  scored.options = options;
  Decisions& own = scored.options.decisions;
  Entries of{.counted = counted_labels(result, data)};
  if (options.cross_fitted.empty() && !own.thresholds) {
    scored.options.decided_here = true;
    own.thresholds = decide(of.counted, data.classes, {.thresholds = options.rule}).thresholds;
  }
  const SampleDecisions decisions(scored.options, result, data);
  const size_t labels = data.classes.size();
  of.thresholds = decisions.entry_thresholds(data.classes, options.calibrated);
  if (auto divided = decisions.divided(of.counted.logits)) {
    CountedLabels calibrated{std::move(*divided), of.counted.presence};
    scored.as_given = confidence_of(of.counted, int(labels));
    scored.calibrated = confidence_of(calibrated, int(labels));
    if (options.calibrated) of.counted = std::move(calibrated);
  }
  scored.calibration = calibration_of(of.counted);
  withhold(of, labels, decisions.reject(options.calibrated), scored);
  const BootstrapOptions drawing = drawing_of(options);
  const std::vector<uint32_t> groups = group_numbers(result, data);
  measure(of, int(labels), drawing, groups, scored);
  for (const Column& column : options.by) {
    LabelSubgroupTable table{.column = column.name};
    for (const ValueSamples& in : samples_by_value(column, result, groups)) {
      LabelSubgroup row{.value = in.value, .groups = in.group_count};
      measure(chosen(of, in.samples, labels), int(labels), drawing, in.groups, row);
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
  m.average_precision_macro = of.macro.average_precision;
  return m;
}

LabelScore write_label_score(const fs::path& folder, const EvaluationResult& result,
                             const Dataset& data, const ScoreOptions& options) {
  const LabelScore scored = score_labels(result, data, options);
  write_metrics(folder, options.part, to_json(scored, data.classes));
  const auto write = [&](const char* name, std::string_view text) {
    write_file_atomically(folder / (options.prefix + name), text);
  };
  const EvaluationResult shown = as_scored(result, options);
  const CountedLabels counted = counted_labels(shown, data);
  write("predictions.csv", predictions(shown, data));
  write("roc.csv", curves(counted, data.classes,
                          "class,threshold,false_positive_rate,true_positive_rate\n", roc_lines));
  write("pr.csv", curves(counted, data.classes, "class,threshold,precision,recall\n", pr_lines));
  return scored;
}

}  // namespace engine
