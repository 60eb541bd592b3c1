// Confidence intervals of shares in closed form, and percentiles of resamples.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace engine {

inline constexpr double kLevel = 0.95;  // of all intervals, unless another is asked for

struct ConfidenceInterval {
  double low = 0, high = 0;
};

// The z below which a standard normal lies with `probability`, which is within (0, 1).
double normal_quantile(double probability);

// The score interval of Wilson (1927) for a share of independent samples. Nothing without samples.
std::optional<ConfidenceInterval> wilson_interval(int64_t found, int64_t samples,
                                                  double level = kLevel);

// Bounds that leave equal shares outside, interpolated between two values as numpy.percentile does.
// Values that are NaN are left out; nothing where no other is left.
std::optional<ConfidenceInterval> percentile_interval(std::vector<double> values,
                                                      double level = kLevel);

}  // namespace engine
