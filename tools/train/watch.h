// What of the validation is watched: it decides which weights are the best, when plateau lowers the
// rate, and when training stops early.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/metrics.h"
#include "io/data/dataset.h"
#include "tools/score/evaluation.h"

namespace engine {

struct Watch {
  enum class Figure : uint8_t {
    top1,         // share of images whose class is predicted, or all of whose labels are right
    loss,         // mean cross entropy, the less the better
    auc,          // macro mean
    ap,           // average precision, macro mean
    f1,           // macro mean
    balanced,     // mean recall; of labels of their presence and their absence
    sensitivity,  // at a specificity: of two classes for the second, else the macro mean
    recall        // of one class or label
  } figure = Figure::top1;
  double specificity = 0;       // of sensitivity
  std::string class_name = {};  // of recall

  bool operator==(const Watch&) const = default;
};

// Reads "top1", "loss", "auc", "ap", "f1", "balanced", "sensitivity@SPECIFICITY" or "CLASS:recall",
// whose last colon counts; Error(usage) names --watch and what it may be.
Watch parse_watch(const std::string& text);
std::string to_string(const Watch& watch);

// Error(usage) where a class or label is watched that is none of the validation's, which it names,
// or that has no image there.
void check_watch(const Watch& watch, const Dataset& validation);

// The figure, of metrics_of() a result and of the result itself. Nothing where it is not defined:
// no class has an area, or the class that is watched has no image. Of several labels, whose
// thresholds are chosen when the training is done, top1, f1, balanced and LABEL:recall call a label
// present from 0.5 on, and means are over the labels that have the figure.
std::optional<double> watched_figure(const Watch& watch, const Metrics& metrics,
                                     const EvaluationResult& result, const Dataset& validation);

// The same so that more is better, for comparisons; NaN, which is never better, where there is
// none.
double merit(const Watch& watch, const std::optional<double>& figure);

// ", auc 0.9312", for people; empty for top1 and loss, which stand in every line, and for NaN.
std::string watched_text(const Watch& watch, double merit);

}  // namespace engine
