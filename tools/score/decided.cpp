#include "tools/score/decided.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "engine/measures/labels.h"
#include "tools/machine/cores.h"

namespace engine {
namespace {

constexpr size_t kRejectPoints = 100;  // more than a plot shows

}  // namespace

BootstrapOptions drawing_of(const ScoreOptions& options) {
  return {.resamples = options.resamples, .seed = options.seed, .threads = available_cores()};
}

std::vector<const Decisions*> sets_of(const ScoreOptions& options) {
  if (options.cross_fitted.empty()) return {&options.decisions};
  std::vector<const Decisions*> sets;
  for (const FoldDecisions& fold : options.cross_fitted) sets.push_back(&fold.decisions);
  return sets;
}

std::string rule_of(const ScoreOptions& options) {
  const auto& thresholds = sets_of(options)[0]->thresholds;
  return thresholds ? thresholds->rule : "";
}

SampleDecisions::SampleDecisions(const ScoreOptions& options, const EvaluationResult& result,
                                 const Dataset& data)
    : sets_(sets_of(options)) {
  for (const Decisions* set : sets_) thresholds_.push_back(thresholds_by_name(*set, data.classes));
  const auto& folds = options.cross_fitted;
  for (size_t i = 0; i < data.samples.size(); ++i) {
    if (!result.counted[i]) continue;
    const auto at = std::ranges::find(folds, data.samples[i].fold, &FoldDecisions::fold);
    require(folds.empty() || at != folds.end(), Failure::data, "{}: no decisions for fold {}",
            data.samples[i].path, data.samples[i].fold);
    set_of_.push_back(static_cast<size_t>(at - folds.begin()));
  }
}

bool SampleDecisions::have_thresholds() const {
  return !set_of_.empty() &&
         std::ranges::all_of(sets_, [](const Decisions* set) { return bool(set->thresholds); });
}

std::vector<double> SampleDecisions::entry_thresholds(std::span<const std::string> labels,
                                                      bool calibrated) const {
  std::vector<std::vector<double>> of_set;
  for (const Decisions* set : sets_) of_set.push_back(label_thresholds(*set, labels, calibrated));
  std::vector<double> values;
  values.reserve(set_of_.size() * labels.size());
  for (const size_t set : set_of_)
    values.insert(values.end(), of_set[set].begin(), of_set[set].end());
  return values;
}

std::optional<std::vector<float>> SampleDecisions::divided(std::span<const float> logits) const {
  if (set_of_.empty()) return std::nullopt;
  const size_t classes = logits.size() / set_of_.size();
  std::vector<float> all;
  all.reserve(logits.size());
  for (size_t i = 0; i < set_of_.size(); ++i) {
    const auto& temperature = sets_[set_of_[i]]->temperature;
    if (!temperature) return std::nullopt;
    const auto row = divided_by(logits.subspan(i * classes, classes), *temperature);
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

std::optional<std::vector<double>> SampleDecisions::reject(bool calibrated) const {
  if (set_of_.empty()) return std::nullopt;
  std::vector<double> values;
  for (const size_t set : set_of_) {
    const auto& reject = sets_[set]->reject;
    if (!reject || !reject->of(calibrated)) return std::nullopt;
    values.push_back(*reject->of(calibrated));
  }
  return values;
}

std::vector<RejectPoint> reject_points(const Answers& answers) {
  return reject_curve(answers.confidences, answers.right, kRejectPoints);
}

}  // namespace engine
