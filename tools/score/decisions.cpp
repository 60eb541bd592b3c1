#include "tools/score/decisions.h"

#include <fmt/format.h>

#include <charconv>

#include "engine/error.h"
#include "engine/measures/calibration.h"
#include "engine/measures/metrics.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"

namespace engine {
namespace {

using Kind = ThresholdRule::Kind;

constexpr std::string_view kYouden = "youden", kSensitivity = "sensitivity@",
                           kSpecificity = "specificity@";

std::optional<double> reject_threshold(std::span<const float> logits,
                                       std::span<const int32_t> labels, int classes,
                                       double accuracy) {
  const Answers answers = answers_of(softmax_rows(logits, classes),
                                     predicted_classes(logits, classes), labels, classes);
  const auto chosen = choose_reject(answers.confidences, answers.right, accuracy);
  return chosen ? std::optional(chosen->threshold) : std::nullopt;
}

}  // namespace

ThresholdRule parse_threshold_rule(const std::string& text) {
  if (text == kYouden) return {};
  ThresholdRule rule{.kind = Kind::sensitivity};
  std::string_view share = text;
  if (text.starts_with(kSpecificity)) rule.kind = Kind::specificity;
  require(text.starts_with(kSensitivity) || rule.kind == Kind::specificity, Failure::usage,
          "--threshold-rule {}: it is youden, sensitivity@S or specificity@S", text);
  share.remove_prefix(share.find('@') + 1);
  const char* const end = share.data() + share.size();
  const auto [stop, error] = std::from_chars(share.data(), end, rule.at);
  require(error == std::errc() && stop == end && rule.at > 0 && rule.at < 1, Failure::usage,
          "--threshold-rule {}: '{}' is no share above 0 and below 1", text, share);
  return rule;
}

std::string to_string(const ThresholdRule& rule) {
  if (rule.kind == Kind::youden) return std::string(kYouden);
  return fmt::format("{}{}", rule.kind == Kind::sensitivity ? kSensitivity : kSpecificity, rule.at);
}

Decisions decide(std::span<const float> logits, std::span<const int32_t> labels,
                 std::span<const std::string> classes, const DecisionRules& rules) {
  const int count = static_cast<int>(classes.size());
  const ThresholdRule& rule = rules.thresholds;
  Decisions decisions{.temperature = fit_temperature(logits, labels, count),
                      .thresholds = Thresholds{.rule = to_string(rule)},
                      .reject = RejectThreshold{.accuracy = rules.reject_accuracy}};
  const auto threshold = [&](std::span<const float> of) {
    return reject_threshold(of, labels, count, rules.reject_accuracy);
  };
  decisions.reject->as_given = threshold(logits);
  if (decisions.temperature)
    decisions.reject->calibrated = threshold(divided_by(logits, *decisions.temperature));
  const std::vector<double> p = softmax_rows(logits, count);
  std::vector<double> scores(labels.size());
  std::vector<uint8_t> positive(labels.size());
  for (int c = 0; c < count; ++c) {
    for (size_t i = 0; i < labels.size(); ++i) {
      scores[i] = p[i * count + c];
      positive[i] = labels[i] == c;
    }
    ClassThreshold chosen{.name = classes[c]};
    if (const auto point = choose_threshold(rank_scores(scores, positive), rule)) {
      chosen.threshold = point->threshold;
      chosen.sensitivity = point->sensitivity;
      chosen.specificity = point->specificity;
    }
    decisions.thresholds->classes.push_back(std::move(chosen));
  }
  return decisions;
}

void store_decisions(const std::filesystem::path& weights, const Decisions& decisions) {
  TensorFile file = read_safetensors(weights);
  check_seal(file, weights);
  file.metadata.erase(kTemperature);
  file.metadata.erase(kThresholds);
  file.metadata.erase(kReject);
  if (decisions.temperature)
    file.metadata[kTemperature] = fmt::format("{}", *decisions.temperature);
  if (decisions.thresholds) file.metadata[kThresholds] = to_json(*decisions.thresholds);
  if (decisions.reject) file.metadata[kReject] = to_json(*decisions.reject);
  write_sealed(weights, std::move(file));
}

}  // namespace engine
