// The figures of an evaluation of images with several labels, from the logits of every sample. A
// label that is missing in an image does not count in any of them. They are what scikit-learn
// defines, label by label; tests compare with it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/measures/metrics.h"
#include "engine/measures/operating_point.h"
#include "kernels/targets.h"

namespace engine {

// What becomes of the entries (image, label) at the thresholds. A share without entries is nothing.
struct LabelCalls {
  Called called;

  std::optional<double> f1() const;  // harmonic mean of precision and sensitivity
};

struct LabelMetrics : LabelCalls {
  int64_t positives = 0, negatives = 0, missing = 0;
  // Means of the binary cross entropy and of (p − y)²; nothing where all are missing.
  std::optional<double> loss, brier;
  std::optional<double> auc;                // nothing where all or none have the label
  std::optional<double> average_precision;  // nothing where none has it
};

// Macro: means over the labels that have the figure. Micro: of all entries together.
struct LabelAverages {
  std::optional<double> auc, average_precision, sensitivity, specificity, precision, f1;
};

struct MultilabelMetrics {
  int64_t samples = 0, missing = 0;  // images; entries that are not known
  // Means over the entries that are known of the binary cross entropy and of (p − y)², which is
  // Brier's score (Brier 1950) of one label, brier_score_loss; nothing where none is known.
  std::optional<double> loss, brier;
  // The share of the images with a known label of which all known labels are right, and the share
  // of the known entries that are wrong: accuracy_score and hamming_loss where nothing is missing.
  std::optional<double> subset_accuracy, hamming_loss;
  std::vector<LabelMetrics> labels;
  LabelAverages macro, micro;
};

// From which probability on an entry of (samples, labels) is called present. `thresholds` has one
// for each label, or one for each entry; if it is empty, all are 0.5.
inline double threshold_of(std::span<const double> thresholds, size_t entry) {
  return thresholds.empty() ? 0.5 : thresholds[entry % thresholds.size()];
}

// Takes logits and presence (samples, labels); the logits must be finite. `thresholds` are those of
// threshold_of().
MultilabelMetrics evaluate_labels(std::span<const float> logits, std::span<const Presence> presence,
                                  int labels, std::span<const double> thresholds = {});

// The threshold of each label by the rule; nothing where all or none have it.
std::vector<std::optional<OperatingPoint>> choose_label_thresholds(
    std::span<const float> logits, std::span<const Presence> presence, int labels,
    const ThresholdRule& rule);

// The mean over the labels that are present in some image and absent in some of the sensitivity at
// the threshold of the largest one whose specificity is at least `specificity`.
std::optional<double> mean_label_sensitivity_at(std::span<const float> logits,
                                                std::span<const Presence> presence, int labels,
                                                double specificity);

// The temperature T by which all logits are divided so that the mean binary cross entropy over the
// known entries is least. It is fit_temperature() of the two classes present and absent, whose
// logits are z and 0: the sigmoid of z is their softmax (Guo et al., ICML 2017, section 4.1 and
// 4.2). One T serves all labels, as one serves all classes there: it changes no order of entries,
// and a rare label has too few positives for one of its own.
std::optional<double> fit_label_temperature(std::span<const float> logits,
                                            std::span<const Presence> presence);

// The threshold that calls the same entries present where their logits are divided by a
// temperature, as divided_by() does. It goes over the logit as a float, so that the very entry that
// a threshold was taken of still reaches it.
double divided_threshold(double threshold, double temperature);

// How sure it is whether an entry is present, from 0.5 at the threshold to 1: the larger of p' and
// 1 − p', where p' has the odds of the probability over the odds of the threshold. Whoever calls
// present from `threshold` on minds a miss (1 − threshold) / threshold times as much as a false
// alarm, and p' is the probability with that counted in (Elkan, IJCAI 2001). At the threshold 0.5
// p' is p itself.
double decision_confidence(double probability, double threshold);

// Of the entries of one label that are known how sure the decision is, and whether it is right.
// `thresholds` are those of threshold_of().
Answers label_answers(std::span<const double> probabilities, std::span<const Presence> presence,
                      std::span<const double> thresholds, int labels, int label);
// Of all labels together.
Answers all_label_answers(std::span<const double> probabilities, std::span<const Presence> presence,
                          std::span<const double> thresholds);

// 1 / (1 + e^−z) of every logit.
std::vector<double> sigmoids(std::span<const float> logits);
// log p − log(1 − p), which the sigmoid was taken of. A p of 0 counts as the smallest number above
// 0, a p of 1 as the largest below 1.
double logit_of(double probability);

// The mean over the known entries of one image; 0 where none is known.
double binary_cross_entropy(std::span<const float> logits, std::span<const Presence> presence);

// One label's entries that are known.
struct LabelScores {
  std::vector<double> scores;  // probabilities
  std::vector<uint8_t> positive;
};
LabelScores scores_of(std::span<const double> probabilities, std::span<const Presence> presence,
                      int labels, int label);
// Of all labels together.
LabelScores all_scores(std::span<const double> probabilities, std::span<const Presence> presence);

}  // namespace engine
