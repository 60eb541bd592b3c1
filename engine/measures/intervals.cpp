#include "engine/measures/intervals.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace engine {

// Newton's method on the distribution function, in the lower half, where its values are exact.
double normal_quantile(double probability) {
  if (probability > 0.5) return -normal_quantile(1 - probability);
  double z = 0;
  for (int i = 0; i < 100; ++i) {
    const double below = std::erfc(-z / std::numbers::sqrt2) / 2;
    const double density = std::exp(-z * z / 2) / std::sqrt(2 * std::numbers::pi);
    const double step = (below - probability) / density;
    z -= std::clamp(step, -1., 1.);  // a step of the tail may be too long
    if (std::abs(step) < 1e-15 * std::max(1., std::abs(z))) break;
  }
  return z;
}

std::optional<ConfidenceInterval> wilson_interval(int64_t found, int64_t samples, double level) {
  if (samples == 0) return std::nullopt;
  const double z = normal_quantile((1 + level) / 2);
  const auto n = static_cast<double>(samples);
  const double p = static_cast<double>(found) / n, z2 = z * z / n;
  const double centre = (p + z2 / 2) / (1 + z2);
  const double half = z / (1 + z2) * std::sqrt((p * (1 - p) + z2 / 4) / n);
  // At the ends the formula gives 0 and 1 but for rounding.
  return ConfidenceInterval{found == 0 ? 0 : std::max(0., centre - half),
                            found == samples ? 1 : std::min(1., centre + half)};
}

std::optional<ConfidenceInterval> percentile_interval(std::vector<double> values, double level) {
  std::erase_if(values, [](double v) { return std::isnan(v); });
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const double above = values[std::min(below + 1, values.size() - 1)];
    return values[below] + (place - static_cast<double>(below)) * (above - values[below]);
  };
  return ConfidenceInterval{at((1 - level) / 2), at((1 + level) / 2)};
}

}  // namespace engine
