// What of the validation is watched: it decides which weights are the best, when plateau lowers the
// rate, and when training stops early.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/metrics.h"
#include "io/data/dataset.h"

namespace engine {

struct Watch {
  enum class Figure : uint8_t {
    top1,         // share of images whose class is predicted
    loss,         // mean cross entropy, the less the better
    auc,          // macro mean
    f1,           // macro mean
    balanced,     // mean recall
    sensitivity,  // at a specificity: of two classes for the second, of more the macro mean
    recall        // of one class
  } figure = Figure::top1;
  double specificity = 0;       // of sensitivity
  std::string class_name = {};  // of recall

  bool operator==(const Watch&) const = default;
};

// Reads "top1", "loss", "auc", "f1", "balanced", "sensitivity@SPECIFICITY" or "CLASS:recall", whose
// last colon counts; Error(usage) names --watch and what it may be.
Watch parse_watch(const std::string& text);
std::string to_string(const Watch& watch);

// Error(usage) where a class is watched that is none of the validation's, which it names, or that
// has no image there, and where the figure is not one of several labels but the images have them.
void check_watch(const Watch& watch, const Dataset& validation);

// The figure, of metrics and of the logits (samples, classes) that they are of. Nothing where it is
// not defined: no class has an area, or the class that is watched has no image.
std::optional<double> watched_figure(const Watch& watch, const Metrics& metrics,
                                     std::span<const float> logits, std::span<const int32_t> labels,
                                     std::span<const std::string> classes);

// The same so that more is better, for comparisons; NaN, which is never better, where there is
// none.
double merit(const Watch& watch, const std::optional<double>& figure);

// ", auc 0.9312", for people; empty for top1 and loss, which stand in every line, and for NaN.
std::string watched_text(const Watch& watch, double merit);

}  // namespace engine
