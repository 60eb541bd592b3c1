// Which labels are doubtful, by probabilities from a model that has not trained with the samples:
// confident learning (Northcutt, Jiang and Chuang, JAIR 2021).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/targets.h"

namespace engine {

// How samples are ranked, the most doubtful first.
enum class DoubtScore {
  // The probability of the label less the largest of another class, −1 to 1: how clearly another
  // class is meant. It tells a wrong label from a sample that no class fits.
  normalized_margin,
  // The probability of the label, 0 to 1: low also where the model is lost.
  self_confidence
};

struct LabelDoubt {
  int64_t sample = 0;
  int32_t suggested = 0;  // the most probable of the other classes
  double p_label = 0, p_suggested = 0;
  double score = 0;  // by which samples are ranked
  // Counted off the diagonal of the confident joint: of the classes whose probability reaches their
  // threshold the most probable one is not the label.
  bool issue = false;
};

// The threshold of each class: the mean of its probability over the samples that have it as label.
// Nothing for a class without samples.
std::vector<std::optional<double>> confident_thresholds(std::span<const double> probabilities,
                                                        std::span<const int32_t> labels,
                                                        int classes);

// Every sample, the most doubtful first; of equal scores the first sample comes first. Takes
// probabilities (samples, classes) of two classes or more; Error(diverged) where one is not finite.
std::vector<LabelDoubt> rank_label_doubts(std::span<const double> probabilities,
                                          std::span<const int32_t> labels, int classes,
                                          DoubtScore score);

// The same where images have several labels: each label is a problem of its own with the classes
// absent (0) and present (1), as in multi-label confident learning (Thyagarajan et al. 2022,
// arXiv:2211.13895).
struct EntryDoubt : LabelDoubt {
  int32_t label = 0;  // of which it is said whether the image has it; `suggested` is the other one
};

// Every entry (sample, label) that is known, the most doubtful first. Takes probabilities and
// presence (samples, labels). Of two classes both scores rank alike.
std::vector<EntryDoubt> rank_entry_doubts(std::span<const double> probabilities,
                                          std::span<const Presence> presence, int labels,
                                          DoubtScore score);

}  // namespace engine
