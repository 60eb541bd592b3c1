// What is chosen on validation images when a training is done, and stored with the weights: the
// temperature that calibrates probabilities, from which probability on a class is called present,
// and from which an image is answered at all.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/operating_point.h"
#include "tools/score/metadata.h"

namespace engine {

// Reads "youden", "sensitivity@S" or "specificity@S" with S above 0 and below 1; Error(usage) names
// --threshold-rule.
ThresholdRule parse_threshold_rule(const std::string& text);
std::string to_string(const ThresholdRule& rule);

struct Decisions {
  std::optional<double> temperature;  // fit_temperature()
  std::optional<Thresholds> thresholds;
  std::optional<RejectThreshold> reject;
};

struct DecisionRules {
  ThresholdRule thresholds;
  double reject_accuracy = 0.95;  // of the answers that are given
};

// Of logits (samples, classes) as the network gives them.
Decisions decide(std::span<const float> logits, std::span<const int32_t> labels,
                 std::span<const std::string> classes, const DecisionRules& rules);

// Writes them into the metadata of a safetensors file, in place of what stands there.
void store_decisions(const std::filesystem::path& weights, const Decisions& decisions);

}  // namespace engine
