// Confidence intervals by the bootstrap (Efron 1979, percentile method): as many units as there are
// are drawn again with replacement, and the measures of all resamples are sorted. A unit is a
// sample or, where samples come in groups like the images of a patient, a group with all of its
// samples (the cluster bootstrap; Field and Welsh 2007): samples of a group are alike, and say less
// than as many independent ones.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/measures/intervals.h"
#include "engine/measures/metrics.h"

namespace engine {

struct BootstrapOptions {
  int resamples = 1000;
  double level = kLevel;
  uint64_t seed = 0;
  int threads = 1;  // the result does not depend on it
};

using FigureInterval = std::optional<ConfidenceInterval>;  // nothing where no resample has a value

// Of one class. Areas are bootstrapped. Without groups the three shares have Wilson's intervals,
// which hold for independent samples; with groups they are bootstrapped too, but for a share of 0
// or 1: there no resample differs, and Wilson's interval of the number of groups, as if each were
// one sample, is taken.
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

// Of logits (samples, classes). `groups` has the number of each sample's group, from 0 without gaps
// in the order of their first samples; if it is empty, samples are drawn. Draw j of resample r is
// below(units) of the stream {seed, epoch 0, position r, "bootstrap"}. In each resample the figures
// are those of Metrics: macro means are taken over the classes that occur there. A figure that a
// resample lacks, as the recall of a class that was not drawn, is left out of the percentiles.
// There must be at least one sample and one resample.
ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options,
                                        std::span<const uint32_t> groups = {});

}  // namespace engine
