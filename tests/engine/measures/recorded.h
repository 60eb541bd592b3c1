// What scikit-learn says of recorded logits (tools/compare/metrics.py), and how it is compared.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tests/json.h"

namespace engine::test {

struct RecordedMeasures {
  nlohmann::json expected;
  int classes = 0;
  std::vector<float> logits;     // (samples, classes)
  std::vector<int32_t> labels;   // (samples)
  std::vector<uint32_t> groups;  // (samples)

  // The scores of a class, and which samples have it.
  struct OfClass {
    std::vector<double> scores;
    std::vector<uint8_t> positive;
  };
  OfClass of_class(int c) const;
};
std::vector<RecordedMeasures> recorded_measures();

// CHECKs that numbers and nulls are the same to 1e-9, in order.
void expect_same(const std::vector<std::optional<double>>& ours, const nlohmann::json& theirs,
                 const char* what);

}  // namespace engine::test
