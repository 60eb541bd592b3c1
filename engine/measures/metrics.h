// The figures of an evaluation, from the logits of every sample: accuracy, loss, a class's
// precision and recall, averages, calibration. They are what scikit-learn defines with
// zero_division=0; tests compare with it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace engine {

// One class against the rest. A ratio whose divisor is 0 is 0.
struct ClassMetrics {
  int64_t support = 0, predicted = 0;  // samples with this label; samples given this class
  double precision = 0;                // the share of the predicted that have the class
  double recall = 0;                   // sensitivity: the share of the support that is predicted
  double f1 = 0;                       // harmonic mean of the two
  double specificity = 0;              // the share of the rest that is not predicted
  std::optional<double> auc;           // nothing where all or none have the class
};

struct Averages {
  double precision = 0, recall = 0, f1 = 0, specificity = 0;
};

// The samples whose confidence, the largest probability, lies in ((i, i + 1] / kCalibrationBins).
struct CalibrationBin {
  int64_t samples = 0;
  double confidence = 0, accuracy = 0;  // means; 0 without samples
};
inline constexpr int kCalibrationBins = 15;

struct Metrics {
  int64_t samples = 0;
  double loss = 0;            // mean cross entropy
  double top1 = 0, top5 = 0;  // shares, 0 to 1
  // Macro: the mean over the classes that have an area. Micro: one area over all pairs of sample
  // and class.
  std::optional<double> auc_macro, auc_micro;
  std::vector<ClassMetrics> classes;
  Averages macro;                  // means over the classes that occur as label or prediction
  Averages weighted;               // means weighted by support
  double balanced_accuracy = 0;    // mean recall of the classes that have samples
  std::vector<int64_t> confusion;  // (label, prediction)
  // Expected calibration error (Guo et al., ICML 2017): Σ over the bins of share of samples times
  // |accuracy − confidence|.
  double calibration_error = 0;
  std::array<CalibrationBin, kCalibrationBins> calibration;
};

// Throws Error(diverged), which names sample and class, unless all logits (samples, classes) are
// finite: no figure says anything of others.
void require_finite(std::span<const float> logits, int classes);

// Takes logits (samples, classes), which must be finite. Of equal logits the one of the lower class
// counts as larger.
Metrics evaluate_logits(std::span<const float> logits, std::span<const int32_t> labels,
                        int classes);

// Returns log Σ exp − z of one row, and writes its softmax to `probabilities` unless that is empty.
// All are NaN where a logit is.
double cross_entropy(std::span<const float> logits, int label,
                     std::span<double> probabilities = {});

// The softmax of every row, (samples, classes).
std::vector<double> softmax_rows(std::span<const float> logits, int classes);

// The class of each row's largest logit; the logits must be finite.
std::vector<int32_t> predicted_classes(std::span<const float> logits, int classes);

}  // namespace engine
