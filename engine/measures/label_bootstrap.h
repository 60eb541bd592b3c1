// Confidence intervals of the figures of images with several labels, by the bootstrap over images
// or, where they come in groups, over groups (engine/measures/bootstrap.h has the references).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/measures/labels.h"
#include "engine/measures/resampling.h"

namespace engine {

struct LabelIntervals {
  FigureInterval auc, average_precision, sensitivity, specificity, precision, f1;
};

struct MultilabelIntervals {
  int64_t units = 0;  // that are drawn
  bool grouped = false;
  FigureInterval loss, brier, subset_accuracy, hamming_loss;
  std::vector<LabelIntervals> labels;
  LabelIntervals macro, micro;
};

// Of logits and presence (samples, labels), of thresholds as threshold_of() takes them and groups
// as Resamples does; both may be empty. In each resample the figures are those of
// MultilabelMetrics: macro means are taken over the labels that have the figure there. A label's
// sensitivity, specificity and precision have ShareCount::interval(); all else is bootstrapped,
// micro averages too, for the entries of an image are not independent. There must be at least one
// sample and one resample.
MultilabelIntervals bootstrap_label_intervals(std::span<const float> logits,
                                              std::span<const Presence> presence, int labels,
                                              std::span<const double> thresholds,
                                              const BootstrapOptions& options,
                                              std::span<const uint32_t> groups = {});

}  // namespace engine
