#include "tests/engine/measures/recorded.h"

#include "engine/measures/metrics.h"
#include "tests/support.h"

namespace engine::test {

using nlohmann::json;

RecordedMeasures::OfClass RecordedMeasures::of_class(int c) const {
  const std::vector<double> p = softmax_rows(logits, classes);
  OfClass of;
  for (size_t i = 0; i < labels.size(); ++i) {
    of.scores.push_back(p[i * classes + c]);
    of.positive.push_back(labels[i] == c);
  }
  return of;
}

std::vector<RecordedMeasures> recorded_measures() {
  const json file = golden("metrics.json");
  std::vector<RecordedMeasures> all;
  for (const json& c : file["cases"])
    all.push_back({c, c["classes"], c["logits"], c["labels"], c["groups"]});
  REQUIRE(all.size() == 5);
  return all;
}

void expect_same(const std::vector<std::optional<double>>& ours, const json& theirs,
                 const char* what) {
  REQUIRE(ours.size() == theirs.size());
  std::vector<double> a, b;
  for (size_t i = 0; i < ours.size(); ++i) {
    CHECK_MESSAGE(ours[i].has_value() == !theirs[i].is_null(), what);
    if (!ours[i] || theirs[i].is_null()) continue;
    a.push_back(*ours[i]);
    b.push_back(theirs[i]);
  }
  constexpr Tolerance kSame{1e-9, 0};
  expect_close(std::span<const double>(a), std::span<const double>(b), kSame, what);
}

}  // namespace engine::test
