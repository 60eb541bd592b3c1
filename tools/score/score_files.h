// The tables of an evaluation as CSV.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "io/data/dataset.h"
#include "tools/score/evaluation.h"

namespace engine {

// Path, label, prediction and numbers of each sample that counts, in the order of the data set;
// with `probabilities` those of all classes.
std::string predictions_csv(const EvaluationResult& result, const Dataset& data,
                            bool probabilities);

std::string confusion_csv(const Metrics& metrics, std::span<const std::string> classes);

// Points of a curve, for each class or label: more than a plot shows.
constexpr size_t kCurvePoints = 200;

// At most kCurvePoints per class, and "(micro)".
std::string roc_csv(const EvaluationResult& result, const Dataset& data);
std::string precision_recall_csv(const EvaluationResult& result, const Dataset& data);

}  // namespace engine
