// Means of a few repeats and how sure they are.
#pragma once

#include <span>

namespace engine {

// A value and half the width of its 95% interval; NaN half a width of a single value.
struct MeanInterval {
  double value = 0, half = 0;
  double low() const { return value - half; }
  double high() const { return value + half; }
};

// The 97.5% point of Student's t with that many degrees of freedom, at least 1.
double student_t(int freedom);

// The mean and t · s / √n; of nothing NaN.
MeanInterval mean_interval(std::span<const double> values);

// a / b of independent means: relative half widths add as squares.
MeanInterval ratio(const MeanInterval& a, const MeanInterval& b);

}  // namespace engine
