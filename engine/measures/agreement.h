// Agreement of predictions with labels beyond chance.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace engine {

// Cohen's kappa (1960) and its weighted forms (1968), as scikit-learn's cohen_kappa_score over all
// classes: 1 − Σ w·observed / Σ w·expected, where w of classes i and j is 1 unless they are the
// same, |i − j| (linear), or (i − j)² (quadratic). The weighted forms mean something where the
// order of the classes does. Nothing where chance would agree always, as with one class alone.
struct Kappas {
  std::optional<double> plain, linear, quadratic;
};

// How often each class is label and prediction, and Σ w over the samples, for the three weights.
struct Disagreement {
  std::span<const int64_t> labels, predictions;  // (classes)
  int64_t plain = 0, linear = 0, quadratic = 0;
};
Kappas kappas(const Disagreement& of);

// From a confusion matrix (label, prediction).
Kappas kappas(std::span<const int64_t> confusion, int classes);

}  // namespace engine
