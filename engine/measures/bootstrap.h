// Confidence intervals by the bootstrap (Efron 1979, percentile method): as many samples as there
// are are drawn again with replacement, and the measures of all resamples are sorted.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace engine {

struct BootstrapOptions {
  int resamples = 1000;
  double level = 0.95;
  uint64_t seed = 0;
  int threads = 1;  // the result does not depend on it
};

struct ConfidenceInterval {
  double low = 0, high = 0;
};

struct ConfidenceIntervals {
  ConfidenceInterval top1, f1_macro;
  std::optional<ConfidenceInterval> auc_macro;  // nothing where no resample has an area
};

// Of logits (samples, classes). Draw j of resample r is below(samples) of the stream {seed, epoch
// 0, position r, "bootstrap"}. Macro means are taken in each resample over the classes that occur
// there, as in Metrics; bounds are interpolated between two resamples as numpy.percentile does.
// There must be at least one sample and one resample.
ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options);

}  // namespace engine
