#include "tools/scale/statistics.h"

#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

namespace engine {

double student_t(int freedom) {
  constexpr double kPoints[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                                2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                                2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
  if (freedom <= static_cast<int>(std::size(kPoints))) return kPoints[freedom - 1];
  // The first two terms of its expansion in 1 / freedom: z + (z³ + z) / (4 · freedom).
  constexpr double z = 1.95996;
  return z + (z * z * z + z) / (4. * freedom);
}

MeanInterval mean_interval(std::span<const double> values) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  if (values.empty()) return {kNone, kNone};
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.) / count;
  if (values.size() == 1) return {mean, kNone};
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const int freedom = static_cast<int>(values.size()) - 1;
  return {mean, student_t(freedom) * std::sqrt(squares / freedom / count)};
}

MeanInterval ratio(const MeanInterval& a, const MeanInterval& b) {
  const double value = a.value / b.value;
  return {value, std::abs(value) * std::hypot(a.half / a.value, b.half / b.value)};
}

}  // namespace engine
