#include "engine/measures/metrics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/error.h"
#include "engine/measures/agreement.h"
#include "engine/measures/precision_recall.h"
#include "engine/measures/roc.h"

namespace engine {
namespace {

double ratio_or_zero(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

// The figures of each class, from the confusion matrix.
std::vector<ClassMetrics> class_metrics(std::span<const int64_t> confusion, int classes,
                                        int64_t samples) {
  std::vector<ClassMetrics> all(classes);
  for (int label = 0; label < classes; ++label)
    for (int prediction = 0; prediction < classes; ++prediction) {
      all[label].support += confusion[label * classes + prediction];
      all[prediction].predicted += confusion[label * classes + prediction];
    }
  for (int c = 0; c < classes; ++c) {
    ClassMetrics& m = all[c];
    const auto found = static_cast<double>(confusion[c * classes + c]);
    const auto support = static_cast<double>(m.support),
               predicted = static_cast<double>(m.predicted);
    const auto others = static_cast<double>(samples - m.support);
    m.precision = ratio_or_zero(found, predicted);
    m.recall = ratio_or_zero(found, support);
    m.f1 = ratio_or_zero(2 * found, support + predicted);
    m.specificity = ratio_or_zero(others - (predicted - found), others);
  }
  return all;
}

// Σ weight·m / Σ weight over the classes, for every figure m.
template <class Weight>
Averages average(std::span<const ClassMetrics> classes, Weight weight) {
  Averages sum;
  double total = 0;
  for (const ClassMetrics& m : classes) {
    const double w = weight(m);
    sum.precision += w * m.precision;
    sum.recall += w * m.recall;
    sum.f1 += w * m.f1;
    sum.specificity += w * m.specificity;
    total += w;
  }
  return {ratio_or_zero(sum.precision, total), ratio_or_zero(sum.recall, total),
          ratio_or_zero(sum.f1, total), ratio_or_zero(sum.specificity, total)};
}

// Means over the classes that have a value.
class Mean {
 public:
  void add(const std::optional<double>& value) {
    if (value) sum_ += *value, ++counted_;
  }
  std::optional<double> get() const {
    return counted_ > 0 ? std::optional(sum_ / counted_) : std::nullopt;
  }

 private:
  double sum_ = 0;
  int counted_ = 0;
};

// What follows from the order of the samples by the probability of a class.
void rank_classes(Metrics& m, std::span<const double> probabilities,
                  std::span<const int32_t> labels, int classes) {
  const size_t samples = labels.size();
  Mean area, precision;
  std::vector<double> scores(samples);
  std::vector<uint8_t> positive(samples);
  for (int c = 0; c < classes; ++c) {
    for (size_t i = 0; i < samples; ++i) {
      scores[i] = probabilities[i * classes + c];
      positive[i] = labels[i] == c;
    }
    const std::vector<RankedStep> steps = rank_scores(scores, positive);
    ClassMetrics& k = m.classes[c];
    area.add(k.auc = area_under_curve(steps));
    precision.add(k.average_precision = average_precision(steps));
    for (size_t i = 0; i < kOperatingShares.size(); ++i) {
      k.sensitivity_at[i] = sensitivity_at_specificity(steps, kOperatingShares[i]);
      k.specificity_at[i] = specificity_at_sensitivity(steps, kOperatingShares[i]);
    }
  }
  m.auc_macro = area.get();
  m.average_precision_macro = precision.get();
  positive.assign(samples * classes, 0);
  for (size_t i = 0; i < samples; ++i) positive[i * classes + labels[i]] = 1;
  m.auc_micro = area_under_curve(probabilities, positive);
}

Answers answers_of(std::span<const double> probabilities, std::span<const int32_t> predictions,
                   std::span<const int32_t> labels, int classes) {
  Answers answers;
  for (size_t i = 0; i < labels.size(); ++i) {
    answers.confidences.push_back(probabilities[i * classes + predictions[i]]);
    answers.right.push_back(predictions[i] == labels[i]);
  }
  return answers;
}

template <class Z>
double cross_entropy_of(std::span<const Z> logits, int label, std::span<double> probabilities) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (Z z : logits) sum += std::exp(z - top);
  for (size_t c = 0; c < probabilities.size(); ++c)
    probabilities[c] = std::exp(logits[c] - top) / sum;
  return top + std::log(sum) - logits[label];
}

}  // namespace

void require_finite(std::span<const float> logits, int classes) {
  for (size_t i = 0; i < logits.size(); ++i)
    require(std::isfinite(logits[i]), Failure::diverged, "sample {}: its logit of class {} is {}",
            i / classes, i % classes, logits[i]);
}

double cross_entropy(std::span<const float> logits, int label, std::span<double> probabilities) {
  return cross_entropy_of(logits, label, probabilities);
}
double cross_entropy(std::span<const double> logits, int label, std::span<double> probabilities) {
  return cross_entropy_of(logits, label, probabilities);
}

std::vector<double> softmax_rows(std::span<const float> logits, int classes) {
  std::vector<double> probabilities(logits.size());
  for (size_t at = 0; at < logits.size(); at += classes)
    cross_entropy(logits.subspan(at, classes), 0, std::span(probabilities).subspan(at, classes));
  return probabilities;
}

std::vector<int32_t> predicted_classes(std::span<const float> logits, int classes) {
  std::vector<int32_t> predictions(logits.size() / classes);
  for (size_t i = 0; i < predictions.size(); ++i) {
    const auto row = logits.subspan(i * classes, classes);
    predictions[i] = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
  }
  return predictions;
}

Answers answers_of(std::span<const float> logits, std::span<const int32_t> labels, int classes) {
  return answers_of(softmax_rows(logits, classes), predicted_classes(logits, classes), labels,
                    classes);
}

Metrics evaluate_logits(std::span<const float> logits, std::span<const int32_t> labels,
                        int classes) {
  require_finite(logits, classes);
  const size_t samples = labels.size();
  Metrics m{.samples = static_cast<int64_t>(samples)};
  m.classes.resize(classes);
  m.confusion.resize(size_t(classes) * classes);
  if (samples == 0) return m;
  std::vector<double> probabilities(samples * classes);
  const std::vector<int32_t> predictions = predicted_classes(logits, classes);
  int64_t correct1 = 0, correct5 = 0;
  for (size_t i = 0; i < samples; ++i) {
    const auto z = logits.subspan(i * classes, classes);
    const int label = labels[i];
    const auto p = std::span(probabilities).subspan(i * classes, classes);
    m.loss += cross_entropy(z, label, p);
    m.brier += brier_score(p, label);
    int rank = 0;
    for (int c = 0; c < classes; ++c) rank += z[c] > z[label] || (z[c] == z[label] && c < label);
    correct1 += rank < 1;
    correct5 += rank < 5;
    ++m.confusion[label * classes + predictions[i]];
  }
  const auto count = static_cast<double>(samples);
  m.loss /= count;
  m.brier /= count;
  m.top1 = static_cast<double>(correct1) / count;
  m.top5 = static_cast<double>(correct5) / count;
  m.classes = class_metrics(m.confusion, classes, m.samples);
  m.macro = average(m.classes, [](const auto& c) { return c.support + c.predicted > 0; });
  m.weighted = average(m.classes, [](const auto& c) { return static_cast<double>(c.support); });
  m.balanced_accuracy = average(m.classes, [](const auto& c) { return c.support > 0; }).recall;
  const Answers answers = answers_of(probabilities, predictions, labels, classes);
  const Calibration calibration = calibrate(answers.confidences, answers.right);
  m.calibration = calibration.bins;
  m.calibration_error = calibration.error;
  const Kappas agreement = kappas(m.confusion, classes);
  m.cohen_kappa = agreement.plain;
  m.kappa_linear = agreement.linear;
  m.kappa_quadratic = agreement.quadratic;
  rank_classes(m, probabilities, labels, classes);
  return m;
}

std::optional<double> value_of(const Metrics& m, Total total) {
  switch (total) {
    case Total::loss: return m.loss;
    case Total::top1: return m.top1;
    case Total::top5: return m.top5;
    case Total::balanced_accuracy: return m.balanced_accuracy;
    case Total::f1_macro: return m.macro.f1;
    case Total::f1_weighted: return m.weighted.f1;
    case Total::auc_macro: return m.auc_macro;
    case Total::auc_micro: return m.auc_micro;
    case Total::average_precision_macro: return m.average_precision_macro;
    case Total::cohen_kappa: return m.cohen_kappa;
    case Total::kappa_linear: return m.kappa_linear;
    case Total::kappa_quadratic: return m.kappa_quadratic;
    case Total::brier: return m.brier;
    case Total::calibration_error: return m.calibration_error;
  }
  return std::nullopt;
}

}  // namespace engine
