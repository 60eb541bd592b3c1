// What the decisions of validation make of the images of a part, whatever the task: how well
// probabilities mean what they say without and with the temperature, and what is left where the
// least sure answers are withheld.
#pragma once

#include <array>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/calibration.h"
#include "engine/measures/metrics.h"
#include "tools/score/score_options.h"

namespace engine {

// How well probabilities mean what they say. Of several labels the bins are of the probability of
// a known label and of the share that is present.
struct Confidence {
  double loss = 0, brier = 0;
  Calibration calibration;
};

struct Decided {
  // With a temperature: as the network gives them, and divided by it.
  std::optional<Confidence> as_given = {}, calibrated = {};
  std::vector<RejectPoint> reject = {};
  // At the threshold that validation chose, of the probabilities that are scored.
  std::optional<RejectPoint> answered = {};
};

// Which decisions hold for each sample that counts: the same for all, or those of its fold.
class SampleDecisions {
 public:
  // `options` must outlive it.
  SampleDecisions(const ScoreOptions& options, const EvaluationResult& result, const Dataset& data);

  // Whether every sample has thresholds, of whichever classes.
  bool have_thresholds() const;
  // Of class or label c; nothing where it has none.
  const std::optional<double>& threshold(size_t sample, size_t c) const {
    return thresholds_[set_of_[sample]][c];
  }
  // From which probability on each entry (samples, labels) is called present; `calibrated`: from
  // which one after the temperature.
  std::vector<double> entry_thresholds(std::span<const std::string> labels, bool calibrated) const;
  // The logits (samples, classes) divided by the temperature; nothing where a sample has none.
  std::optional<std::vector<float>> divided(std::span<const float> logits) const;
  // From which confidence on each sample is answered; nothing where one has no such threshold.
  std::optional<std::vector<double>> reject(bool calibrated) const;

 private:
  std::vector<const Decisions*> sets_;
  std::vector<std::vector<std::optional<double>>> thresholds_;  // (sets, classes)
  std::vector<size_t> set_of_;                                  // (samples)
};

// The curve of withheld answers, with as many points as a plot shows.
std::vector<RejectPoint> reject_points(const Answers& answers);

// The decisions themselves: one set, or one for each fold.
std::vector<const Decisions*> sets_of(const ScoreOptions& options);

// Adds the members temperature, calibrated, uncalibrated, reject, reject_threshold and, of folds,
// cross_fitted. Of decisions that differ by fold there is no single number, and it is null.
void add_decided(nlohmann::ordered_json& json, const Decided& decided, const ScoreOptions& options,
                 Task task);
nlohmann::ordered_json to_json(const std::array<CalibrationBin, kCalibrationBins>& bins, Task task);

// The same as lines of a table; of `answers` samples, or known labels. Empty where nothing is
// decided.
std::string calibration_lines(const Decided& decided, const ScoreOptions& options, int64_t answers);
std::string rejection_lines(const Decided& decided, const ScoreOptions& options, int64_t answers,
                            Task task);

// The number that of(decisions) is: "0.3124", or "0.312-0.42" where those of the folds differ; "-"
// where there is none.
std::string number_of_sets(
    const ScoreOptions& options,
    const std::function<std::optional<double>(const Decisions& decisions)>& of);

// The rule that the thresholds were chosen by; empty where there are none.
std::string rule_of(const ScoreOptions& options);

}  // namespace engine
