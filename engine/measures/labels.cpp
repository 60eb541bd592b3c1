#include "engine/measures/labels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/measures/precision_recall.h"
#include "engine/measures/roc.h"

namespace engine {
namespace {

std::optional<double> ratio_if_any(double part, double whole) {
  return whole > 0 ? std::optional(part / whole) : std::nullopt;
}

// −log of the probability of what is so: log(1 + e^−|z|) and what of |z| speaks against it.
double loss_of(double z, bool present) {
  return std::log1p(std::exp(-std::abs(z))) + std::max(present ? -z : z, 0.);
}

double square_of_error(double p, bool present) {
  const double error = p - (present ? 1 : 0);
  return error * error;
}

void add(Called& called, bool present, bool positive) {
  ++(present ? (positive ? called.true_positives : called.false_negatives)
             : (positive ? called.false_positives : called.true_negatives));
}

// The mean of a figure over the labels that have it.
template <class Figure>
std::optional<double> mean(const std::vector<LabelMetrics>& labels, Figure figure) {
  double sum = 0, count = 0;
  for (const LabelMetrics& label : labels)
    if (const std::optional<double> value = figure(label)) sum += *value, ++count;
  return ratio_if_any(sum, count);
}

LabelAverages macro_of(const std::vector<LabelMetrics>& labels) {
  return {mean(labels, [](const auto& l) { return l.auc; }),
          mean(labels, [](const auto& l) { return l.average_precision; }),
          mean(labels, [](const auto& l) { return l.called.sensitivity(); }),
          mean(labels, [](const auto& l) { return l.called.specificity(); }),
          mean(labels, [](const auto& l) { return l.called.precision(); }),
          mean(labels, [](const auto& l) { return l.f1(); })};
}

LabelAverages micro_of(const LabelCalls& all, const LabelScores& scores) {
  const std::vector<RankedStep> steps = rank_scores(scores.scores, scores.positive);
  return {area_under_curve(steps),  average_precision(steps), all.called.sensitivity(),
          all.called.specificity(), all.called.precision(),   all.f1()};
}

}  // namespace

std::optional<double> LabelCalls::f1() const {
  const double found = 2 * double(called.true_positives);
  return ratio_if_any(found, found + double(called.false_positives + called.false_negatives));
}

double logit_of(double p) {
  constexpr double kLargest = 1 - std::numeric_limits<double>::epsilon() / 2;
  p = std::clamp(p, std::numeric_limits<double>::min(), kLargest);
  return std::log(p) - std::log1p(-p);
}

std::vector<double> sigmoids(std::span<const float> logits) {
  std::vector<double> probabilities;
  probabilities.reserve(logits.size());
  for (const float z : logits) probabilities.push_back(1 / (1 + std::exp(-double{z})));
  return probabilities;
}

double binary_cross_entropy(std::span<const float> logits, std::span<const Presence> presence) {
  double sum = 0, known = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (presence[i] == Presence::missing) continue;
    sum += loss_of(logits[i], presence[i] == Presence::present);
    ++known;
  }
  return known > 0 ? sum / known : 0;
}

LabelScores scores_of(std::span<const double> probabilities, std::span<const Presence> presence,
                      int labels, int label) {
  LabelScores of;
  for (size_t i = size_t(label); i < presence.size(); i += size_t(labels)) {
    if (presence[i] == Presence::missing) continue;
    of.scores.push_back(probabilities[i]);
    of.positive.push_back(presence[i] == Presence::present);
  }
  return of;
}

LabelScores all_scores(std::span<const double> probabilities, std::span<const Presence> presence) {
  return scores_of(probabilities, presence, 1, 0);
}

MultilabelMetrics evaluate_labels(std::span<const float> logits, std::span<const Presence> presence,
                                  int labels, std::span<const double> thresholds) {
  const size_t count = size_t(labels);
  const std::vector<double> p = sigmoids(logits);
  MultilabelMetrics m{.samples = int64_t(presence.size() / count)};
  m.labels.resize(count);
  LabelCalls all;
  std::vector<double> losses(count), squares(count);
  int64_t with_label = 0, right = 0;  // images
  for (size_t at = 0; at < presence.size(); at += count) {
    bool known = false, wrong = false;
    for (size_t c = 0; c < count; ++c) {
      LabelMetrics& label = m.labels[c];
      if (presence[at + c] == Presence::missing) {
        ++label.missing;
        continue;
      }
      const bool present = presence[at + c] == Presence::present;
      const bool positive = p[at + c] >= threshold_of(thresholds, at + c);
      ++(present ? label.positives : label.negatives);
      losses[c] += loss_of(logits[at + c], present);
      squares[c] += square_of_error(p[at + c], present);
      add(label.called, present, positive);
      add(all.called, present, positive);
      known = true;
      wrong = wrong || present != positive;
    }
    with_label += known;
    right += known && !wrong;
  }
  double loss = 0, square = 0, entries = 0;
  for (size_t c = 0; c < count; ++c) {
    LabelMetrics& label = m.labels[c];
    const double known = double(label.positives + label.negatives);
    label.loss = ratio_if_any(losses[c], known);
    label.brier = ratio_if_any(squares[c], known);
    loss += losses[c], square += squares[c], entries += known;
    m.missing += label.missing;
    const LabelScores of = scores_of(p, presence, labels, int(c));
    const std::vector<RankedStep> steps = rank_scores(of.scores, of.positive);
    label.auc = area_under_curve(steps);
    label.average_precision = average_precision(steps);
  }
  m.loss = ratio_if_any(loss, entries);
  m.brier = ratio_if_any(square, entries);
  m.subset_accuracy = ratio_if_any(double(right), double(with_label));
  m.hamming_loss =
      ratio_if_any(double(all.called.false_positives + all.called.false_negatives), entries);
  m.macro = macro_of(m.labels);
  m.micro = micro_of(all, all_scores(p, presence));
  return m;
}

std::optional<double> mean_label_sensitivity_at(std::span<const float> logits,
                                                std::span<const Presence> presence, int labels,
                                                double specificity) {
  const std::vector<double> p = sigmoids(logits);
  double sum = 0, counted = 0;
  for (int c = 0; c < labels; ++c) {
    const LabelScores of = scores_of(p, presence, labels, c);
    const auto point = sensitivity_at_specificity(rank_scores(of.scores, of.positive), specificity);
    if (point) sum += point->sensitivity, ++counted;
  }
  return ratio_if_any(sum, counted);
}

std::optional<double> fit_label_temperature(std::span<const float> logits,
                                            std::span<const Presence> presence) {
  std::vector<float> pairs;  // (known entries, 2): absent, present
  std::vector<int32_t> present;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (presence[i] == Presence::missing) continue;
    pairs.insert(pairs.end(), {0.f, logits[i]});
    present.push_back(presence[i] == Presence::present);
  }
  return fit_temperature(pairs, present, 2);
}

double divided_threshold(double threshold, double temperature) {
  const float logits[] = {static_cast<float>(logit_of(threshold))};
  return sigmoids(divided_by(logits, temperature))[0];
}

double decision_confidence(double p, double threshold) {
  const double present = p * (1 - threshold), absent = threshold * (1 - p);
  return present + absent > 0 ? std::max(present, absent) / (present + absent) : 0.5;
}

Answers label_answers(std::span<const double> probabilities, std::span<const Presence> presence,
                      std::span<const double> thresholds, int labels, int label) {
  Answers answers;
  for (size_t i = size_t(label); i < presence.size(); i += size_t(labels)) {
    if (presence[i] == Presence::missing) continue;
    const double p = probabilities[i], threshold = threshold_of(thresholds, i);
    answers.confidences.push_back(decision_confidence(p, threshold));
    answers.right.push_back((p >= threshold) == (presence[i] == Presence::present));
  }
  return answers;
}

Answers all_label_answers(std::span<const double> probabilities, std::span<const Presence> presence,
                          std::span<const double> thresholds) {
  return label_answers(probabilities, presence, thresholds, 1, 0);
}

std::vector<std::optional<OperatingPoint>> choose_label_thresholds(
    std::span<const float> logits, std::span<const Presence> presence, int labels,
    const ThresholdRule& rule) {
  const std::vector<double> p = sigmoids(logits);
  std::vector<std::optional<OperatingPoint>> chosen;
  for (int c = 0; c < labels; ++c) {
    const LabelScores of = scores_of(p, presence, labels, c);
    chosen.push_back(choose_threshold(rank_scores(of.scores, of.positive), rule));
  }
  return chosen;
}

}  // namespace engine
