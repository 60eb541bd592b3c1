// What is chosen on validation images when a training is done, and stored with the weights: the
// temperature that calibrates probabilities, from which probability on a class or a label is called
// present, and from which confidence on that is an answer at all.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/operating_point.h"
#include "tools/score/evaluation.h"
#include "tools/score/metadata.h"

namespace engine {

// Reads "youden", "sensitivity@S" or "specificity@S" with S above 0 and below 1; Error(usage) names
// --threshold-rule.
ThresholdRule parse_threshold_rule(const std::string& text);
std::string to_string(const ThresholdRule& rule);

struct DecisionRules {
  ThresholdRule thresholds;
  double reject_accuracy = 0.95;  // of the answers that are given
};

// Of logits (samples, classes) as the network gives them.
Decisions decide(std::span<const float> logits, std::span<const int32_t> labels,
                 std::span<const std::string> classes, const DecisionRules& rules);
// Of several labels, where each known label of an image is an answer of its own.
Decisions decide(const CountedLabels& counted, std::span<const std::string> labels,
                 const DecisionRules& rules);
// Of the samples that count, whichever the task.
Decisions decide(const EvaluationResult& result, const Dataset& data, const DecisionRules& rules);

// The decisions for the images of one fold.
struct FoldDecisions {
  int fold = 0;
  Decisions decisions;
};

// For each fold of the samples the decisions that the images of all other folds make, so that none
// is told of an image that had a part in it. In the order of the folds.
std::vector<FoldDecisions> cross_fit(const EvaluationResult& result, const Dataset& data,
                                     const DecisionRules& rules);

// The thresholds in the order of `names`; nothing where there is none.
std::vector<std::optional<double>> thresholds_by_name(const Decisions& decisions,
                                                      std::span<const std::string> names);
// From which probability on each label is called present: 0.5 where there is no threshold.
// `calibrated`: of the probabilities that the temperature makes, if there is one; the same entries
// are called present.
std::vector<double> label_thresholds(const Decisions& decisions, std::span<const std::string> names,
                                     bool calibrated = false);

// Writes them into the metadata of a safetensors file, in place of what stands there.
void store_decisions(const std::filesystem::path& weights, const Decisions& decisions);

}  // namespace engine
