#include "engine/measures/metrics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/error.h"
#include "engine/measures/roc.h"

namespace engine {
namespace {

double ratio(double part, double whole) {
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
    m.precision = ratio(found, predicted);
    m.recall = ratio(found, support);
    m.f1 = ratio(2 * found, support + predicted);
    m.specificity = ratio(others - (predicted - found), others);
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
  return {ratio(sum.precision, total), ratio(sum.recall, total), ratio(sum.f1, total),
          ratio(sum.specificity, total)};
}

void calibrate(Metrics& m, std::span<const double> probabilities,
               std::span<const int32_t> predictions, std::span<const int32_t> labels, int classes) {
  for (size_t i = 0; i < labels.size(); ++i) {
    const double confidence = probabilities[i * classes + predictions[i]];
    const int bin = std::clamp(static_cast<int>(std::ceil(confidence * kCalibrationBins)) - 1, 0,
                               kCalibrationBins - 1);
    ++m.calibration[bin].samples;
    m.calibration[bin].confidence += confidence;
    m.calibration[bin].accuracy += predictions[i] == labels[i];
  }
  for (CalibrationBin& bin : m.calibration) {
    m.calibration_error += std::abs(bin.accuracy - bin.confidence) / static_cast<double>(m.samples);
    bin.confidence = ratio(bin.confidence, static_cast<double>(bin.samples));
    bin.accuracy = ratio(bin.accuracy, static_cast<double>(bin.samples));
  }
}

void areas(Metrics& m, std::span<const double> probabilities, std::span<const int32_t> labels,
           int classes) {
  const size_t samples = labels.size();
  double area = 0;
  int counted = 0;
  std::vector<double> scores(samples);
  std::vector<uint8_t> positive(samples);
  for (int c = 0; c < classes; ++c) {
    for (size_t i = 0; i < samples; ++i) {
      scores[i] = probabilities[i * classes + c];
      positive[i] = labels[i] == c;
    }
    m.classes[c].auc = area_under_curve(scores, positive);
    if (m.classes[c].auc) area += *m.classes[c].auc, ++counted;
  }
  if (counted > 0) m.auc_macro = area / counted;
  positive.assign(samples * classes, 0);
  for (size_t i = 0; i < samples; ++i) positive[i * classes + labels[i]] = 1;
  m.auc_micro = area_under_curve(probabilities, positive);
}

}  // namespace

void require_finite(std::span<const float> logits, int classes) {
  for (size_t i = 0; i < logits.size(); ++i)
    require(std::isfinite(logits[i]), Failure::diverged, "sample {}: its logit of class {} is {}",
            i / classes, i % classes, logits[i]);
}

double cross_entropy(std::span<const float> logits, int label, std::span<double> probabilities) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float z : logits) sum += std::exp(z - top);
  for (size_t c = 0; c < probabilities.size(); ++c)
    probabilities[c] = std::exp(logits[c] - top) / sum;
  return top + std::log(sum) - logits[label];
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
    m.loss += cross_entropy(z, label, std::span(probabilities).subspan(i * classes, classes));
    int rank = 0;
    for (int c = 0; c < classes; ++c) rank += z[c] > z[label] || (z[c] == z[label] && c < label);
    correct1 += rank < 1;
    correct5 += rank < 5;
    ++m.confusion[label * classes + predictions[i]];
  }
  const auto count = static_cast<double>(samples);
  m.loss /= count;
  m.top1 = static_cast<double>(correct1) / count;
  m.top5 = static_cast<double>(correct5) / count;
  m.classes = class_metrics(m.confusion, classes, m.samples);
  m.macro = average(m.classes, [](const auto& c) { return c.support + c.predicted > 0; });
  m.weighted = average(m.classes, [](const auto& c) { return static_cast<double>(c.support); });
  m.balanced_accuracy = average(m.classes, [](const auto& c) { return c.support > 0; }).recall;
  calibrate(m, probabilities, predictions, labels, classes);
  areas(m, probabilities, labels, classes);
  return m;
}

}  // namespace engine
