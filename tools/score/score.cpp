#include "tools/score/score.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace engine {
namespace {

Confidence confidence_of(std::span<const float> logits, std::span<const int32_t> labels,
                         int classes) {
  Confidence c;
  const std::vector<double> p = softmax_rows(logits, classes);
  for (size_t i = 0; i < labels.size(); ++i) {
    c.loss += cross_entropy(logits.subspan(i * classes, classes), labels[i]);
    c.brier += brier_score(std::span(p).subspan(i * classes, classes), labels[i]);
  }
  c.loss /= static_cast<double>(labels.size());
  c.brier /= static_cast<double>(labels.size());
  const Answers answers = answers_of(logits, labels, classes);
  c.calibration = calibrate(answers.confidences, answers.right);
  return c;
}

std::vector<std::optional<Called>> call(const SampleDecisions& decisions, size_t count,
                                        const CountedSamples& counted) {
  const std::vector<double> p = softmax_rows(counted.logits, static_cast<int>(count));
  std::vector<double> scores(counted.labels.size());
  std::vector<uint8_t> positive(counted.labels.size());
  std::vector<std::optional<Called>> called(count);
  for (size_t c = 0; c < count; ++c) {
    bool known = true;
    for (size_t i = 0; i < scores.size() && known; ++i) {
      const std::optional<double>& threshold = decisions.threshold(i, c);
      known = threshold.has_value();
      scores[i] = p[i * count + c] - threshold.value_or(0);  // no rounding changes its sign
      positive[i] = size_t(counted.labels[i]) == c;
    }
    if (known) called[c] = call_at(scores, positive, 0);
  }
  return called;
}

Subgroup subgroup(const ValueSamples& of, const CountedSamples& counted, int classes,
                  const BootstrapOptions& options) {
  std::vector<float> logits;
  std::vector<int32_t> labels;
  for (const size_t i : of.samples) {
    const auto row = counted.logits.begin() + ptrdiff_t(i) * classes;
    logits.insert(logits.end(), row, row + classes);
    labels.push_back(counted.labels[i]);
  }
  const Metrics m = evaluate_logits(logits, labels, classes);
  Subgroup row{.value = of.value,
               .samples = m.samples,
               .groups = of.group_count,
               .top1 = m.top1,
               .balanced_accuracy = m.balanced_accuracy,
               .auc_macro = m.auc_macro};
  if (options.resamples > 0)
    row.intervals = bootstrap_intervals(logits, labels, classes, options, of.groups);
  return row;
}

SubgroupTable subgroups(const Column& column, const EvaluationResult& result,
                        const CountedSamples& counted, std::span<const uint32_t> groups,
                        int classes, const BootstrapOptions& options) {
  SubgroupTable table{.column = column.name};
  for (const ValueSamples& of : samples_by_value(column, result, groups))
    table.rows.push_back(subgroup(of, counted, classes, options));
  return table;
}

}  // namespace

std::vector<uint32_t> group_numbers(const EvaluationResult& result, const Dataset& data) {
  std::vector<uint32_t> numbers;
  if (std::ranges::all_of(data.samples, [](const Sample& s) { return s.group.empty(); }))
    return numbers;
  std::unordered_map<std::string_view, uint32_t> known;
  uint32_t next = 0;
  for (size_t i = 0; i < data.samples.size(); ++i) {
    if (!result.counted[i]) continue;
    const std::string& group = data.samples[i].group;
    if (group.empty()) {
      numbers.push_back(next++);
      continue;
    }
    const auto [at, added] = known.emplace(group, next);
    next += added;
    numbers.push_back(at->second);
  }
  return numbers;
}

std::vector<ValueSamples> samples_by_value(const Column& column, const EvaluationResult& result,
                                           std::span<const uint32_t> groups) {
  std::vector<const std::string*> values;  // of the counted samples
  for (size_t i = 0; i < column.values.size(); ++i)
    if (result.counted[i]) values.push_back(&column.values[i]);
  std::vector<ValueSamples> all;
  for (const std::string& value : column.order) {
    ValueSamples of{.value = value};
    std::unordered_map<uint32_t, uint32_t> numbers;
    for (size_t i = 0; i < values.size(); ++i) {
      if (*values[i] != value) continue;
      of.samples.push_back(i);
      if (!groups.empty())
        of.groups.push_back(
            numbers.emplace(groups[i], static_cast<uint32_t>(numbers.size())).first->second);
    }
    of.group_count = std::ssize(numbers);
    if (!of.samples.empty()) all.push_back(std::move(of));
  }
  return all;
}

Score score(const EvaluationResult& result, const Dataset& data, const ScoreOptions& options) {
  CountedSamples counted = counted_samples(result, data);
  const int classes = static_cast<int>(data.classes.size());
  const SampleDecisions decisions(options, result, data);
  Score scored;
  scored.options = options;
  if (decisions.have_thresholds()) scored.called = call(decisions, data.classes.size(), counted);
  if (auto divided = decisions.divided(counted.logits)) {
    scored.as_given = confidence_of(counted.logits, counted.labels, classes);
    scored.calibrated = confidence_of(*divided, counted.labels, classes);
    if (options.calibrated) counted.logits = std::move(*divided);
  }
  scored.metrics = evaluate_logits(counted.logits, counted.labels, classes);
  if (counted.labels.empty()) return scored;
  const Answers answers = answers_of(counted.logits, counted.labels, classes);
  scored.reject = reject_points(answers);
  if (const auto least = decisions.reject(options.calibrated))
    scored.answered = answered_from(*least, answers.confidences, answers.right);
  const std::vector<uint32_t> groups = group_numbers(result, data);
  const BootstrapOptions drawing = drawing_of(options);
  if (options.resamples > 0)
    scored.intervals =
        bootstrap_intervals(counted.logits, counted.labels, classes, drawing, groups);
  for (const Column& column : options.by)
    scored.by.push_back(subgroups(column, result, counted, groups, classes, drawing));
  return scored;
}

}  // namespace engine
