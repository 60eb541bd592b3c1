// What a loss is asked, whatever its targets: a case has `logits` (double) and
// loss(logits, gradient = nullptr), which returns the loss and writes its gradient.
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "tests/json.h"
#include "tests/support.h"

namespace engine::test {

// Loss and gradient are those that PyTorch recorded.
template <class Case>
void expect_recorded(const Case& c, const nlohmann::json& recorded, const Tolerance& allowed) {
  std::vector<double> gradient(c.logits.size()), expected;
  CHECK(c.loss(c.logits, gradient.data()) ==
        doctest::Approx(recorded["loss"].get<double>()).epsilon(1e-12));
  for (const auto& row : recorded["gradient"])
    for (const double g : row) expected.push_back(g);
  expect_close(gradient, expected, allowed, "gradient");
}

// The gradient is the loss's slope, by differences.
template <class Case>
void expect_slope(const Case& c, const Tolerance& allowed) {
  std::vector<double> gradient(c.logits.size()), slope(c.logits.size());
  c.loss(c.logits, gradient.data());
  for (size_t i = 0; i < slope.size(); ++i) {
    constexpr double kStep = 1e-5;
    std::vector<double> above = c.logits, below = c.logits;
    above[i] += kStep, below[i] -= kStep;
    slope[i] = (c.loss(above) - c.loss(below)) / (2 * kStep);
  }
  expect_close(gradient, slope, allowed, "gradient");
}

}  // namespace engine::test
