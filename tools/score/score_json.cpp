// A score as the member of metrics.json that a part has.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "io/files/utf8.h"
#include "tools/score/interval_json.h"
#include "tools/score/number_or_null.h"
#include "tools/score/score.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

// A share of nothing is null.
Json share_of(int64_t samples, double value) {
  return samples > 0 ? Json(value) : Json();
}

Json to_json(const Averages& a) {
  return {{"precision", a.precision},
          {"recall", a.recall},
          {"f1", a.f1},
          {"specificity", a.specificity}};
}

Json to_json(const ConfidenceIntervals& i, const ScoreOptions& options) {
  Json json = drawing_json(i.units, i.grouped, options);
  for (size_t t = 0; t < kTotalNames.size(); ++t)
    json[std::string(kTotalNames[t])] = to_json(i.totals[t]);
  return json;
}

Json to_json(const ClassIntervals& i) {
  return {{"recall", to_json(i.recall)},
          {"precision", to_json(i.precision)},
          {"specificity", to_json(i.specificity)},
          {"auc", to_json(i.auc)},
          {"average_precision", to_json(i.average_precision)}};
}

Json operating_points(
    const std::array<std::optional<OperatingPoint>, kOperatingShares.size()>& points,
    bool at_specificity) {
  Json json = Json::array();
  for (size_t i = 0; i < points.size(); ++i) {
    const auto& point = points[i];
    const Json sensitivity = point ? Json(point->sensitivity) : Json(),
               specificity = point ? Json(point->specificity) : Json();
    json.push_back({{"specificity", at_specificity ? Json(kOperatingShares[i]) : specificity},
                    {"sensitivity", at_specificity ? sensitivity : Json(kOperatingShares[i])},
                    {"threshold", point ? number_or_null(point->threshold) : Json()}});
  }
  return json;
}

const ClassThreshold* threshold_of(const Score& score, const std::string& name) {
  const auto& thresholds = score.options.decisions.thresholds;
  if (!thresholds) return nullptr;
  const auto at = std::ranges::find(thresholds->classes, name, &ClassThreshold::name);
  return at == thresholds->classes.end() ? nullptr : &*at;
}

Json of_class(const Score& score, std::span<const std::string> classes, size_t c) {
  const ClassMetrics& k = score.metrics.classes[c];
  Json json = {{"name", utf8_from_bytes(classes[c])},
               {"support", k.support},
               {"predicted", k.predicted},
               {"precision", share_of(k.predicted, k.precision)},
               {"recall", share_of(k.support, k.recall)},
               {"specificity", share_of(score.metrics.samples - k.support, k.specificity)},
               {"f1", share_of(k.support + k.predicted, k.f1)},
               {"auc", number_or_null(k.auc)},
               {"average_precision", number_or_null(k.average_precision)},
               {"sensitivity_at_specificity", operating_points(k.sensitivity_at, true)},
               {"specificity_at_sensitivity", operating_points(k.specificity_at, false)}};
  if (const ClassThreshold* chosen = threshold_of(score, classes[c]))
    json["threshold"] = number_or_null(chosen->threshold);
  if (score.intervals) json["intervals"] = to_json(score.intervals->classes[c]);
  return json;
}

// Of the images that are scored, at the thresholds that validation or the other folds chose.
Json thresholds_json(const Score& score, std::span<const std::string> classes) {
  Json json = {{"rule", rule_of(score.options)}, {"classes", Json::object()}};
  for (size_t c = 0; c < classes.size(); ++c) {
    const ClassThreshold* chosen = threshold_of(score, classes[c]);
    const Called called = c < score.called.size() ? score.called[c].value_or(Called{}) : Called{};
    json["classes"][utf8_from_bytes(classes[c])] = {
        {"threshold", chosen ? number_or_null(chosen->threshold) : Json()},
        {"sensitivity", number_or_null(called.sensitivity())},
        {"specificity", number_or_null(called.specificity())},
        {"precision", number_or_null(called.precision())},
        {"negative_predictive_value", number_or_null(called.negative_predictive_value())}};
  }
  return json;
}

Json to_json(const SubgroupTable& table, const ScoreOptions& options) {
  Json rows = Json::array();
  for (const Subgroup& s : table.rows) {
    Json row = {{"value", utf8_from_bytes(s.value)},
                {"samples", s.samples},
                {"groups", s.groups > 0 ? Json(s.groups) : Json()},
                {"top1", s.top1},
                {"balanced_accuracy", s.balanced_accuracy},
                {"auc_macro", number_or_null(s.auc_macro)}};
    if (s.intervals) row["intervals"] = to_json(*s.intervals, options);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

Json to_json(const Score& score, std::span<const std::string> classes) {
  const Metrics& m = score.metrics;
  Json json = {{"samples", m.samples},
               {"loss", share_of(m.samples, m.loss)},
               {"top1", share_of(m.samples, m.top1)},
               {"top5", share_of(m.samples, m.top5)},
               {"auc_macro", number_or_null(m.auc_macro)},
               {"auc_micro", number_or_null(m.auc_micro)},
               {"average_precision_macro", number_or_null(m.average_precision_macro)},
               {"balanced_accuracy", share_of(m.samples, m.balanced_accuracy)},
               {"cohen_kappa", number_or_null(m.cohen_kappa)},
               {"kappa_linear", number_or_null(m.kappa_linear)},
               {"kappa_quadratic", number_or_null(m.kappa_quadratic)},
               {"macro", to_json(m.macro)},
               {"weighted", to_json(m.weighted)},
               {"brier", share_of(m.samples, m.brier)},
               {"calibration_error", share_of(m.samples, m.calibration_error)}};
  if (score.intervals) json["intervals"] = to_json(*score.intervals, score.options);
  json["calibration"] = to_json(m.calibration, Task::classes);
  add_decided(json, score, score.options, Task::classes);
  if (!rule_of(score.options).empty()) json["thresholds"] = thresholds_json(score, classes);
  for (const SubgroupTable& table : score.by)
    json["by"][utf8_from_bytes(table.column)] = to_json(table, score.options);
  for (size_t c = 0; c < classes.size(); ++c)
    json["classes"].push_back(of_class(score, classes, c));
  return json;
}

}  // namespace engine
