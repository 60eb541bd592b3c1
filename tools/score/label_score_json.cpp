// A score of several labels as the member of metrics.json that a part has.
#include <nlohmann/json.hpp>

#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/score/interval_json.h"
#include "tools/score/label_score.h"
#include "tools/score/number_or_null.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

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
               {"brier", to_json(i.brier)},
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

// `thresholds` are those of all samples, or nothing where these differ.
Json labels_json(const MultilabelMetrics& m, const std::optional<MultilabelIntervals>& intervals,
                 std::span<const std::string> labels, std::span<const double> thresholds) {
  Json json = Json::array();
  for (size_t c = 0; c < labels.size(); ++c) {
    const LabelMetrics& l = m.labels[c];
    Json label = {{"name", utf8_from_bytes(labels[c])},
                  {"positives", l.positives},
                  {"negatives", l.negatives},
                  {"missing", l.missing},
                  {"loss", number_or_null(l.loss)},
                  {"brier", number_or_null(l.brier)},
                  {"threshold", thresholds.empty() ? Json() : Json(thresholds[c])},
                  {"true_positives", l.called.true_positives},
                  {"false_positives", l.called.false_positives},
                  {"true_negatives", l.called.true_negatives},
                  {"false_negatives", l.called.false_negatives}};
    label.update(to_json(figures_of(l)));
    if (intervals) label["intervals"] = to_json(intervals->labels[c]);
    json.push_back(std::move(label));
  }
  return json;
}

// Of all images, or of those with one value of a column.
Json totals_json(const MultilabelMetrics& m) {
  return {{"samples", m.samples},
          {"missing", m.missing},
          {"loss", number_or_null(m.loss)},
          {"brier", number_or_null(m.brier)},
          {"subset_accuracy", number_or_null(m.subset_accuracy)},
          {"hamming_loss", number_or_null(m.hamming_loss)},
          {"auc_macro", number_or_null(m.macro.auc)},
          {"auc_micro", number_or_null(m.micro.auc)},
          {"average_precision_macro", number_or_null(m.macro.average_precision)},
          {"macro", to_json(m.macro)},
          {"micro", to_json(m.micro)}};
}

Json to_json(const LabelSubgroupTable& table, const ScoreOptions& options,
             std::span<const std::string> labels, std::span<const double> thresholds) {
  Json rows = Json::array();
  for (const LabelSubgroup& s : table.rows) {
    Json row = {{"value", utf8_from_bytes(s.value)},
                {"groups", s.groups > 0 ? Json(s.groups) : Json()}};
    row.update(totals_json(s.metrics));
    if (s.intervals) row["intervals"] = to_json(*s.intervals, options);
    row["labels"] = labels_json(s.metrics, s.intervals, labels, thresholds);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

Json to_json(const LabelScore& score, std::span<const std::string> labels) {
  Json json = {{"task", kMultilabel}};
  json.update(totals_json(score.metrics));
  json["calibration_error"] =
      number_or_null(score.metrics.loss ? std::optional(score.calibration.error) : std::nullopt);
  if (score.intervals) json["intervals"] = to_json(*score.intervals, score.options);
  json["calibration"] = to_json(score.calibration.bins, Task::labels);
  add_decided(json, score, score.options, Task::labels);
  const ScoreOptions& options = score.options;
  const bool folds = !options.cross_fitted.empty();
  json["thresholds"] = parse_json<Json>(
      to_json(folds ? Thresholds{rule_of(options), {}} : *options.decisions.thresholds));
  json["thresholds"]["chosen_here"] = options.decided_here;
  std::vector<double> applied;
  if (!folds) applied = label_thresholds(options.decisions, labels, options.calibrated);
  for (const LabelSubgroupTable& table : score.by)
    json["by"][utf8_from_bytes(table.column)] = to_json(table, options, labels, applied);
  json["labels"] = labels_json(score.metrics, score.intervals, labels, applied);
  for (size_t c = 0; c < score.answered_labels.size(); ++c) {
    const RejectPoint& answered = score.answered_labels[c];
    json["labels"][c]["answered"] = {
        {"coverage", answered.coverage},
        {"accuracy", answered.coverage > 0 ? Json(answered.accuracy) : Json()}};
  }
  return json;
}

}  // namespace engine
