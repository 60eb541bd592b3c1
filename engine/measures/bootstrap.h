// Confidence intervals by the bootstrap (Efron 1979, percentile method): as many units as there are
// are drawn again with replacement, and the measures of all resamples are sorted. A unit is a
// sample or, where samples come in groups like the images of a patient, a group with all of its
// samples (the cluster bootstrap; Field and Welsh 2007): samples of a group are alike, and say less
// than as many independent ones.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/measures/metrics.h"
#include "engine/measures/resampling.h"

namespace engine {

// Of one class. Areas are bootstrapped; the three shares have ShareCount::interval().
struct ClassIntervals {
  FigureInterval recall, precision, specificity, auc, average_precision;
};

struct ConfidenceIntervals {
  int64_t units = 0;  // that are drawn
  bool grouped = false;
  std::array<FigureInterval, kTotalNames.size()> totals;  // by Total
  std::vector<ClassIntervals> classes;

  const FigureInterval& operator[](Total total) const { return totals[static_cast<size_t>(total)]; }
};

// Of logits (samples, classes). `groups` has the number of each sample's group, as Resamples takes
// them. In each resample the figures are those of Metrics: macro means are taken over the classes
// that occur there. There must be at least one sample and one resample.
ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options,
                                        std::span<const uint32_t> groups = {});

}  // namespace engine
