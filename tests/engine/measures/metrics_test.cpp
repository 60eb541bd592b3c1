// Measures against what scikit-learn says of the same logits, recorded by tools/compare/metrics.py.
#include "engine/measures/metrics.h"

#include <cmath>
#include <limits>

#include "engine/error.h"
#include "engine/measures/bootstrap.h"
#include "engine/measures/roc.h"
#include "tests/engine/measures/recorded.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

template <class Member>
void expect_members(const std::vector<ClassMetrics>& classes, Member member, const json& theirs,
                    const char* what) {
  std::vector<std::optional<double>> ours;
  for (const ClassMetrics& c : classes) ours.emplace_back(c.*member);
  expect_same(ours, theirs, what);
}

}  // namespace

TEST_CASE("measures are scikit-learn's") {
  for (const RecordedMeasures& c : recorded_measures()) {
    const json& e = c.expected;
    CAPTURE(e["name"].get<std::string>());
    const Metrics m = evaluate_logits(c.logits, c.labels, c.classes);
    CHECK(m.samples == c.labels.size());
    for (size_t t = 0; t < kTotalNames.size(); ++t)
      expect_same({value_of(m, static_cast<Total>(t))},
                  json::array({e["totals"].at(kTotalNames[t])}), kTotalNames[t].data());
    CHECK(e["totals"].size() == kTotalNames.size());
    expect_members(m.classes, &ClassMetrics::precision, e["precision"], "precision");
    expect_members(m.classes, &ClassMetrics::recall, e["recall"], "recall");
    expect_members(m.classes, &ClassMetrics::f1, e["f1"], "F1");
    expect_members(m.classes, &ClassMetrics::specificity, e["specificity"], "specificity");
    expect_members(m.classes, &ClassMetrics::auc, e["auc"], "AUC");
    expect_members(m.classes, &ClassMetrics::average_precision, e["average_precision"],
                   "average precision");
    expect_same({m.macro.precision, m.macro.recall, m.macro.f1, m.macro.specificity},
                e["averages"]["macro"], "macro averages");
    expect_same({m.weighted.precision, m.weighted.recall, m.weighted.f1, m.weighted.specificity},
                e["averages"]["weighted"], "weighted averages");
    CHECK(m.confusion == e["confusion"].get<std::vector<int64_t>>());
    for (int k = 0; k < c.classes; ++k) CHECK(m.classes[k].support == e["support"][k]);
  }
}

TEST_CASE("ROC curves are scikit-learn's, and thin ones keep their ends and shape") {
  for (const RecordedMeasures& c : recorded_measures()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const std::vector<double> p = softmax_rows(c.logits, c.classes);
    for (int k = 0; k < c.classes; ++k) {
      std::vector<double> scores;
      std::vector<uint8_t> positive;
      for (size_t i = 0; i < c.labels.size(); ++i) {
        scores.push_back(p[i * c.classes + k]);
        positive.push_back(c.labels[i] == k);
      }
      const auto points = roc_curve(scores, positive, std::numeric_limits<size_t>::max());
      const json& expected = c.expected["roc"][k];
      REQUIRE(points.size() == expected.size());
      for (size_t i = 0; i < points.size(); ++i) {
        const double threshold = expected[i][2].is_null() ? std::numeric_limits<double>::infinity()
                                                          : expected[i][2].get<double>();
        CHECK(std::abs(points[i].false_positive_rate - expected[i][0].get<double>()) <= 1e-12);
        CHECK(std::abs(points[i].true_positive_rate - expected[i][1].get<double>()) <= 1e-12);
        CHECK((points[i].threshold == threshold ||
               std::abs(points[i].threshold - threshold) <= 1e-12));
      }
      if (points.empty()) continue;
      const auto thin = roc_curve(scores, positive, 10);
      CHECK(thin.size() <= 10);
      CHECK(thin.front().true_positive_rate == 0);
      CHECK(thin.back().false_positive_rate == 1);
      CHECK(thin.back().true_positive_rate == 1);
      for (size_t i = 1; i < thin.size(); ++i)
        CHECK(thin[i].false_positive_rate + thin[i].true_positive_rate >
              thin[i - 1].false_positive_rate + thin[i - 1].true_positive_rate);
    }
  }
}

TEST_CASE("bins hold every sample once; a confidence of one is in the last") {
  const std::vector<float> logits = {0, 100, 0, 0, 3, 0};  // 1, 1/2 and 0.953 for a class
  const std::vector<int32_t> labels = {1, 1, 0};
  const Metrics m = evaluate_logits(logits, labels, 2);
  CHECK(m.calibration[14].samples == 2);
  CHECK(m.calibration[7].samples == 1);  // (7/15, 8/15]
  CHECK(m.calibration[7].confidence == doctest::Approx(0.5));
  CHECK(m.calibration[7].accuracy == 0);  // of equal logits the lower class counts as larger
  CHECK(m.calibration[14].accuracy == 1);
}

TEST_CASE("no samples: no measures") {
  const Metrics m = evaluate_logits({}, {}, 3);
  CHECK(m.samples == 0);
  CHECK(m.classes.size() == 3);
  CHECK_FALSE(m.auc_macro.has_value());
}

TEST_CASE("what is not finite has no rank, no area and no bin: it is refused by name") {
  const float nan = std::nanf(""), inf = HUGE_VALF;
  const std::vector<int32_t> labels = {0, 1, 2};
  for (const float bad : {nan, inf, -inf})
    for (const int at : {0, 4, 8}) {
      std::vector<float> logits = {3, 1, 2, 0, 5, 1, 1, 2, 3};
      logits[at] = bad;
      const auto refused = [&](auto measure) {
        CHECK(mentions(message_of(measure, Failure::diverged),
                       fmt::format("sample {0}: its logit of class {0} is {1}", at / 4, bad)));
      };
      refused([&] { evaluate_logits(logits, labels, 3); });
      refused([&] { bootstrap_intervals(logits, labels, 3, {}); });
    }
  const std::vector<double> scores = {0.5, std::nan(""), 0.25};
  const std::vector<uint8_t> positive = {1, 0, 0};
  CHECK(mentions(message_of([&] { area_under_curve(scores, positive); }, Failure::diverged),
                 "sample 1 is nan"));
  CHECK(mentions(message_of([&] { roc_curve(scores, positive, 10); }, Failure::diverged),
                 "sample 1 is nan"));
  CHECK(std::isnan(cross_entropy(std::vector<float>{1, nan}, 0)));
}
