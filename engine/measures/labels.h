// The figures of an evaluation of images with several labels, from the logits of every sample. A
// label that is missing in an image does not count in any of them. They are what scikit-learn
// defines, label by label; tests compare with it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

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
  double threshold = 0.5;  // probabilities at least as large count as present
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

// Takes logits and presence (samples, labels); the logits must be finite. `thresholds` has one for
// each label; if it is empty, all are 0.5.
MultilabelMetrics evaluate_labels(std::span<const float> logits, std::span<const Presence> presence,
                                  int labels, std::span<const double> thresholds = {});

// The threshold of each label by the rule; nothing where all or none have it.
std::vector<std::optional<OperatingPoint>> choose_label_thresholds(
    std::span<const float> logits, std::span<const Presence> presence, int labels,
    const ThresholdRule& rule);

// 1 / (1 + e^−z) of every logit.
std::vector<double> sigmoids(std::span<const float> logits);

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
