// Confidence intervals by the bootstrap (Efron 1979, percentile method): the samples are drawn again with
// replacement, as many as there are, and the measures of each resample are sorted.
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

// Draw j of resample r is below(samples) of the stream {seed, epoch 0, position r, "bootstrap"}. Macro means
// are taken in each resample over the classes that occur there, as in Metrics; bounds lie between two
// resamples where they do in numpy.percentile. At least one sample and one resample.
ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options);

}  // namespace engine
