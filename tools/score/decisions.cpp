#include "tools/score/decisions.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "engine/error.h"
#include "engine/measures/calibration.h"
#include "engine/measures/labels.h"
#include "engine/measures/metrics.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"

namespace engine {
namespace {

using Kind = ThresholdRule::Kind;

constexpr std::string_view kYouden = "youden", kSensitivity = "sensitivity@",
                           kSpecificity = "specificity@";

constexpr double kUsualThreshold = 0.5;  // of a label

std::optional<double> least_confidence(const Answers& answers, double accuracy) {
  const auto chosen = choose_reject(answers.confidences, answers.right, accuracy);
  return chosen ? std::optional(chosen->threshold) : std::nullopt;
}

// answers(temperature) are those of logits divided by it, or of the logits as they are.
RejectThreshold reject_threshold(const Decisions& decisions, double accuracy, const auto& answers) {
  RejectThreshold reject{.accuracy = accuracy};
  reject.as_given = least_confidence(answers(std::optional<double>()), accuracy);
  if (decisions.temperature)
    reject.calibrated = least_confidence(answers(decisions.temperature), accuracy);
  return reject;
}

ClassThreshold class_threshold(const std::string& name,
                               const std::optional<OperatingPoint>& point) {
  if (!point) return {.name = name};
  return {name, point->threshold, point->sensitivity, point->specificity};
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
                      .thresholds = Thresholds{.rule = to_string(rule)}};
  decisions.reject =
      reject_threshold(decisions, rules.reject_accuracy, [&](const std::optional<double>& t) {
        return t ? answers_of(divided_by(logits, *t), labels, count)
                 : answers_of(logits, labels, count);
      });
  const std::vector<double> p = softmax_rows(logits, count);
  std::vector<double> scores(labels.size());
  std::vector<uint8_t> positive(labels.size());
  for (int c = 0; c < count; ++c) {
    for (size_t i = 0; i < labels.size(); ++i) {
      scores[i] = p[i * count + c];
      positive[i] = labels[i] == c;
    }
    decisions.thresholds->classes.push_back(
        class_threshold(classes[c], choose_threshold(rank_scores(scores, positive), rule)));
  }
  return decisions;
}

Decisions decide(const CountedLabels& counted, std::span<const std::string> labels,
                 const DecisionRules& rules) {
  Decisions decisions{.temperature = fit_label_temperature(counted.logits, counted.presence),
                      .thresholds = Thresholds{.rule = to_string(rules.thresholds)}};
  const auto chosen = choose_label_thresholds(counted.logits, counted.presence,
                                              static_cast<int>(labels.size()), rules.thresholds);
  for (size_t c = 0; c < labels.size(); ++c)
    decisions.thresholds->classes.push_back(class_threshold(labels[c], chosen[c]));
  decisions.reject =
      reject_threshold(decisions, rules.reject_accuracy, [&](const std::optional<double>& t) {
        const std::vector<double> p = sigmoids(t ? divided_by(counted.logits, *t) : counted.logits);
        return all_label_answers(p, counted.presence,
                                 label_thresholds(decisions, labels, t.has_value()));
      });
  return decisions;
}

Decisions decide(const EvaluationResult& result, const Dataset& data, const DecisionRules& rules) {
  if (data.task == Task::labels) return decide(counted_labels(result, data), data.classes, rules);
  const CountedSamples counted = counted_samples(result, data);
  return decide(counted.logits, counted.labels, data.classes, rules);
}

std::vector<FoldDecisions> cross_fit(const EvaluationResult& result, const Dataset& data,
                                     const DecisionRules& rules) {
  std::set<int> folds;
  for (const Sample& sample : data.samples) folds.insert(sample.fold);
  std::vector<FoldDecisions> all;
  for (const int fold : folds) {
    EvaluationResult others = result;
    for (size_t i = 0; i < data.samples.size(); ++i)
      others.counted[i] = others.counted[i] && data.samples[i].fold != fold;
    all.push_back({fold, decide(others, data, rules)});
  }
  return all;
}

std::vector<std::optional<double>> thresholds_by_name(const Decisions& decisions,
                                                      std::span<const std::string> names) {
  std::vector<std::optional<double>> values(names.size());
  if (!decisions.thresholds) return values;
  const auto& classes = decisions.thresholds->classes;
  for (size_t c = 0; c < names.size(); ++c)
    if (const auto at = std::ranges::find(classes, names[c], &ClassThreshold::name);
        at != classes.end())
      values[c] = at->threshold;
  return values;
}

std::vector<double> label_thresholds(const Decisions& decisions, std::span<const std::string> names,
                                     bool calibrated) {
  const auto& temperature = decisions.temperature;
  std::vector<double> values;
  for (const std::optional<double>& threshold : thresholds_by_name(decisions, names)) {
    const double value = threshold.value_or(kUsualThreshold);
    values.push_back(calibrated && temperature ? divided_threshold(value, *temperature) : value);
  }
  return values;
}

void store_decisions(const std::filesystem::path& weights, const Decisions& decisions) {
  TensorFile file = read_safetensors(weights);
  check_seal(file, weights);
  put_decisions(file.metadata, decisions);
  write_sealed(weights, std::move(file));
}

}  // namespace engine
