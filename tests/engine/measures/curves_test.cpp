// Curves, operating points, calibration and agreement against what tools/compare/metrics.py has
// recorded, and by hand.
#include <cmath>
#include <limits>

#include "engine/error.h"
#include "engine/measures/agreement.h"
#include "engine/measures/calibration.h"
#include "engine/measures/metrics.h"
#include "engine/measures/operating_point.h"
#include "engine/measures/precision_recall.h"
#include "tests/engine/measures/recorded.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

void expect_point(const std::optional<OperatingPoint>& ours, const json& theirs,
                  const std::string& what) {
  REQUIRE_MESSAGE(ours.has_value() == !theirs.is_null(), what);
  if (!ours) return;
  std::optional<double> threshold;
  if (!std::isinf(ours->threshold)) threshold = ours->threshold;
  expect_same({threshold, ours->sensitivity, ours->specificity}, theirs, what.c_str());
}

std::vector<RankedStep> ranked(const std::vector<double>& scores,
                               const std::vector<uint8_t>& positive) {
  return rank_scores(scores, positive);
}

}  // namespace

TEST_CASE("precision-recall curves are scikit-learn's, and thin ones keep their ends") {
  for (const RecordedMeasures& c : recorded_measures())
    for (int k = 0; k < c.classes; ++k) {
      CAPTURE(c.expected["name"].get<std::string>());
      const auto [scores, positive] = c.of_class(k);
      const auto steps = rank_scores(scores, positive);
      const auto points = precision_recall_curve(steps, std::numeric_limits<size_t>::max());
      const json& expected = c.expected["precision_recall"][k];
      if (expected.empty()) {
        CHECK(points.empty());
        continue;
      }
      REQUIRE(points.size() == expected.size() + 1);
      CHECK(std::isinf(points[0].threshold));
      CHECK(points[0].precision == 1);
      CHECK(points[0].recall == 0);
      for (size_t i = 1; i < points.size(); ++i)
        expect_same({points[i].threshold, points[i].precision, points[i].recall}, expected[i - 1],
                    "point");
      const auto thin = precision_recall_curve(steps, 10);
      CHECK(thin.size() <= 10);
      CHECK(thin.front().recall == 0);
      CHECK(thin.back().recall == 1);
      CHECK(thin.back().threshold == points.back().threshold);
      for (size_t i = 1; i < thin.size(); ++i) CHECK(thin[i].threshold < thin[i - 1].threshold);
    }
}

TEST_CASE("operating points are the best of all thresholds") {
  for (const RecordedMeasures& c : recorded_measures()) {
    const Metrics m = evaluate_logits(c.logits, c.labels, c.classes);
    for (int k = 0; k < c.classes; ++k) {
      const std::string what = fmt::format("{}, class {}", c.expected["name"].dump(), k);
      const json& expected = c.expected["operating"][k];
      for (size_t i = 0; i < kOperatingShares.size(); ++i) {
        expect_point(m.classes[k].sensitivity_at[i], expected["sensitivity_at"][i], what);
        expect_point(m.classes[k].specificity_at[i], expected["specificity_at"][i], what);
      }
      const auto [scores, positive] = c.of_class(k);
      const auto chosen = choose_threshold(rank_scores(scores, positive), {});
      expect_point(chosen, expected["youden"], what);
      if (!chosen) continue;
      const Called called = call_at(scores, positive, chosen->threshold);
      CHECK(*called.sensitivity() == chosen->sensitivity);
      CHECK(*called.specificity() == chosen->specificity);
    }
  }
}

TEST_CASE("rules of thresholds, by hand") {
  using Kind = ThresholdRule::Kind;
  // Ten negatives from 0 to 9, positives at 3.5, 8.5, 8.5 and 9.5.
  std::vector<double> scores;
  std::vector<uint8_t> positive(14);
  for (int i = 0; i < 10; ++i) scores.push_back(i);
  for (const double p : {3.5, 8.5, 8.5, 9.5}) {
    positive[scores.size()] = 1;
    scores.push_back(p);
  }
  const auto steps = ranked(scores, positive);
  CHECK(choose_threshold(steps, {Kind::youden})->threshold == 8.5);  // J = 0.75 − 0.1
  CHECK(choose_threshold(steps, {Kind::sensitivity, 0.75})->threshold == 8.5);
  CHECK(choose_threshold(steps, {Kind::sensitivity, 0.76})->threshold == 3.5);
  CHECK(choose_threshold(steps, {Kind::specificity, 0.9})->threshold == 8.5);  // 9 of 10
  CHECK(choose_threshold(steps, {Kind::specificity, 0.91})->threshold == 9.5);
  CHECK(sensitivity_at_specificity(steps, 0.9)->sensitivity == 0.75);
  CHECK(specificity_at_sensitivity(steps, 0.9)->specificity == 0.4);

  const Called called = call_at(scores, positive, 8.5);
  CHECK(called.true_positives == 3);
  CHECK(called.false_positives == 1);
  CHECK(*called.precision() == 0.75);
  CHECK(*called.negative_predictive_value() == 0.9);
  CHECK_FALSE(call_at(scores, positive, 10).precision().has_value());

  // The largest score is a negative's: no threshold has a specificity of 1 and finds a positive.
  const auto inverted = ranked({3, 2, 1}, {0, 1, 0});
  CHECK_FALSE(choose_threshold(inverted, {Kind::specificity, 0.99}).has_value());
  CHECK(std::isinf(sensitivity_at_specificity(inverted, 0.99)->threshold));
  CHECK(sensitivity_at_specificity(inverted, 0.99)->sensitivity == 0);
  for (const std::vector<uint8_t>& one_kind :
       {std::vector<uint8_t>{1, 1, 1}, std::vector<uint8_t>{0, 0, 0}}) {
    CHECK_FALSE(choose_threshold(ranked({3, 2, 1}, one_kind), {}).has_value());
    CHECK_FALSE(sensitivity_at_specificity(ranked({3, 2, 1}, one_kind), 0.9).has_value());
  }
  CHECK_THROWS_AS(ranked({1, std::nan("")}, {0, 1}), Error);
}

TEST_CASE("the sensitivity that is watched is of the second of two classes, else a mean") {
  for (const RecordedMeasures& c : recorded_measures()) {
    std::vector<double> values;
    for (int k = c.classes == 2 ? 1 : 0; k < c.classes; ++k) {
      const json& point = c.expected["operating"][k]["sensitivity_at"][0];
      if (!point.is_null()) values.push_back(point[1]);
    }
    const auto ours =
        mean_sensitivity_at(softmax_rows(c.logits, c.classes), c.labels, c.classes, 0.9);
    REQUIRE(ours.has_value() == !values.empty());
    double sum = 0;
    for (const double v : values) sum += v / static_cast<double>(values.size());
    if (ours) CHECK(std::abs(*ours - sum) <= 1e-9);
  }
}

TEST_CASE("the temperature makes the cross entropy least") {
  for (const RecordedMeasures& c : recorded_measures()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const auto t = fit_temperature(c.logits, c.labels, c.classes);
    REQUIRE(t.has_value() == !c.expected["temperature"].is_null());
    if (!t) continue;
    CHECK(std::abs(*t / c.expected["temperature"].get<double>() - 1) <= 1e-9);
    const auto loss_at = [&](double temperature) {
      return evaluate_logits(divided_by(c.logits, temperature), c.labels, c.classes).loss;
    };
    CHECK(std::abs(loss_at(*t) - c.expected["calibrated_loss"].get<double>()) <= 1e-7);  // floats
    CHECK(loss_at(*t) <= loss_at(*t * 1.01));
    CHECK(loss_at(*t) <= loss_at(*t / 1.01));
    CHECK(loss_at(*t) <= evaluate_logits(c.logits, c.labels, c.classes).loss + 1e-9);
  }
}

TEST_CASE("there is no best temperature where all is right, nothing is known or all is misled") {
  const std::vector<int32_t> labels = {0, 1};
  CHECK_FALSE(fit_temperature(std::vector<float>{2, 0, 0, 1}, labels, 2).has_value());
  CHECK_FALSE(fit_temperature(std::vector<float>{0, 2, 1, 0}, labels, 2).has_value());
  CHECK_FALSE(fit_temperature(std::vector<float>{1, 1, 1, 1}, labels, 2).has_value());
  CHECK_FALSE(fit_temperature({}, {}, 2).has_value());
  // Three of four right with z = 4 each: the probability that fits is 3/4, so z/T = log 3.
  const std::vector<float> logits = {4, 0, 4, 0, 4, 0, 4, 0};
  const auto t = fit_temperature(logits, std::vector<int32_t>{0, 0, 0, 1}, 2);
  CHECK(std::abs(*t - 4 / std::log(3.)) <= 1e-9 * *t);
}

TEST_CASE("answers are withheld from the least confident on") {
  for (const RecordedMeasures& c : recorded_measures()) {
    const Answers answers = answers_of(c.logits, c.labels, c.classes);
    const auto points =
        reject_curve(answers.confidences, answers.right, std::numeric_limits<size_t>::max());
    const json& expected = c.expected["reject"];
    REQUIRE(points.size() == expected.size());
    for (size_t i = 0; i < points.size(); ++i)
      expect_same({points[i].threshold, points[i].coverage, points[i].accuracy}, expected[i],
                  "point");
    const auto from = [&](double threshold) {
      const std::vector<double> thresholds(answers.confidences.size(), threshold);
      return answered_from(thresholds, answers.confidences, answers.right);
    };
    for (const double accuracy : {0., 0.5, 0.8, 0.95, 1.}) {
      const auto chosen = choose_reject(answers.confidences, answers.right, accuracy);
      const auto first = std::ranges::find_if(
          points, [&](const RejectPoint& point) { return point.accuracy >= accuracy; });
      REQUIRE(chosen.has_value() == (first != points.end()));
      if (!chosen) continue;
      CHECK(chosen->threshold == first->threshold);
      const RejectPoint left = from(chosen->threshold);
      CHECK(left.threshold == chosen->threshold);
      CHECK(left.coverage == chosen->coverage);
      CHECK(left.accuracy == chosen->accuracy);
    }
    CHECK(from(2).coverage == 0);
    // Thresholds of their own: half of the answers are all given, the others never.
    std::vector<double> each(answers.confidences.size(), 0.);
    for (size_t i = 0; i < each.size() / 2; ++i) each[i] = 2;
    const RejectPoint half = answered_from(each, answers.confidences, answers.right);
    CHECK(std::isnan(half.threshold));
    const auto rest = static_cast<ptrdiff_t>(each.size() / 2);
    const auto given = static_cast<double>(each.size()) - double(rest);
    CHECK(half.coverage == doctest::Approx(given / double(each.size())));
    CHECK(half.accuracy ==
          doctest::Approx(double(std::count(answers.right.begin() + rest, answers.right.end(), 1)) /
                          given));
    const auto thin = reject_curve(answers.confidences, answers.right, 12);
    CHECK(thin.size() <= 12);
    CHECK(thin.front().coverage == 1);
    CHECK(thin.back().threshold == points.back().threshold);
    for (size_t i = 1; i < thin.size(); ++i) CHECK(thin[i].coverage < thin[i - 1].coverage);
  }
  CHECK(reject_curve({}, {}, 10).empty());
  CHECK_FALSE(choose_reject({}, {}, 0.5).has_value());
}

TEST_CASE("kappas: chance is nothing, one class has none, and order counts when weighted") {
  const std::vector<int64_t> perfect = {5, 0, 0, 0, 5, 0, 0, 0, 5}, chance = {4, 4, 2, 2},
                             near = {5, 5, 0, 0, 5, 5, 0, 0, 5}, far = {5, 0, 5, 5, 5, 0, 0, 0, 5};
  CHECK(*kappas(perfect, 3).plain == 1);
  CHECK(*kappas(perfect, 3).quadratic == 1);
  CHECK(*kappas(chance, 2).plain == doctest::Approx(0));
  CHECK_FALSE(kappas(std::vector<int64_t>{7, 0, 0, 0}, 2).plain.has_value());
  CHECK(*kappas(near, 3).quadratic > *kappas(far, 3).quadratic);
  CHECK(*kappas(near, 3).linear > *kappas(far, 3).linear);
  // Cohen 1960: two raters, 20 and 15 of 50 agreed on, 5 and 10 not: 0.4.
  CHECK(*kappas(std::vector<int64_t>{20, 5, 10, 15}, 2).plain == doctest::Approx(0.4));
}

TEST_CASE("Brier's score sums over the classes") {
  CHECK(brier_score(std::vector<double>{0.7, 0.3}, 0) == doctest::Approx(2 * 0.09));
  CHECK(brier_score(std::vector<double>{0, 0, 1}, 0) == 2);
  CHECK(brier_score(std::vector<double>{0, 1}, 1) == 0);
}
