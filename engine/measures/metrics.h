// The figures of an evaluation, from the logits of every sample: accuracy, loss, a class's
// precision and recall, averages, agreement, calibration. They are what scikit-learn defines with
// zero_division=0; tests compare with it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/measures/calibration.h"
#include "engine/measures/operating_point.h"

namespace engine {

// The specificities at which a class's sensitivity is told, and the reverse.
inline constexpr std::array kOperatingShares = {0.90, 0.95};

// One class against the rest. A ratio whose divisor is 0 is 0.
struct ClassMetrics {
  int64_t support = 0, predicted = 0;  // samples with this label; samples given this class
  double precision = 0;                // the share of the predicted that have the class
  double recall = 0;                   // sensitivity: the share of the support that is predicted
  double f1 = 0;                       // harmonic mean of the two
  double specificity = 0;              // the share of the rest that is not predicted
  std::optional<double> auc;           // nothing where all or none have the class
  std::optional<double> average_precision;  // nothing where none has the class
  // At each of kOperatingShares; nothing where all or none have the class.
  std::array<std::optional<OperatingPoint>, kOperatingShares.size()> sensitivity_at, specificity_at;
};

struct Averages {
  double precision = 0, recall = 0, f1 = 0, specificity = 0;
};

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
  // The mean over the classes that have one.
  std::optional<double> average_precision_macro;
  std::optional<double> cohen_kappa, kappa_linear, kappa_quadratic;  // kappas()
  double brier = 0;                                                  // mean of brier_score()
  double calibration_error = 0;                                      // calibrate()
  std::array<CalibrationBin, kCalibrationBins> calibration;
};

// The figures that stand for a whole evaluation, by their names in metrics.json.
enum class Total : uint8_t {
  loss,
  top1,
  top5,
  balanced_accuracy,
  f1_macro,
  f1_weighted,
  auc_macro,
  auc_micro,
  average_precision_macro,
  cohen_kappa,
  kappa_linear,
  kappa_quadratic,
  brier,
  calibration_error
};
inline constexpr std::array<std::string_view, 14> kTotalNames = {"loss",
                                                                 "top1",
                                                                 "top5",
                                                                 "balanced_accuracy",
                                                                 "f1_macro",
                                                                 "f1_weighted",
                                                                 "auc_macro",
                                                                 "auc_micro",
                                                                 "average_precision_macro",
                                                                 "cohen_kappa",
                                                                 "kappa_linear",
                                                                 "kappa_quadratic",
                                                                 "brier",
                                                                 "calibration_error"};
std::optional<double> value_of(const Metrics& metrics, Total total);

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
double cross_entropy(std::span<const double> logits, int label,
                     std::span<double> probabilities = {});

// The softmax of every row, (samples, classes).
std::vector<double> softmax_rows(std::span<const float> logits, int classes);

// Of each answer its confidence and whether it is right. Of logits (samples, classes) an answer is
// the predicted class of a sample, and its confidence the probability of that class.
struct Answers {
  std::vector<double> confidences;
  std::vector<uint8_t> right;
};
Answers answers_of(std::span<const float> logits, std::span<const int32_t> labels, int classes);

// The class of each row's largest logit; the logits must be finite.
std::vector<int32_t> predicted_classes(std::span<const float> logits, int classes);

}  // namespace engine
