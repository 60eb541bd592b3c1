// Intervals against numpy's percentiles of what scikit-learn says of the same resamples, and
// against Wilson's formula (tools/compare/metrics.py).
#include "engine/measures/bootstrap.h"

#include <cmath>

#include "tests/engine/measures/recorded.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

void expect_interval(const FigureInterval& ours, const json& theirs, const std::string& what) {
  const json none = json::array({nullptr, nullptr});
  std::vector<std::optional<double>> ends(2);
  if (ours) ends = {ours->low, ours->high};
  expect_same(ends, theirs.is_null() ? none : theirs, what.c_str());
}

void expect_intervals(const ConfidenceIntervals& i, const json& expected) {
  CHECK(i.units == expected["units"]);
  const json& of = expected["of"];
  for (size_t t = 0; t < kTotalNames.size(); ++t)
    expect_interval(i.totals[t], of.at(kTotalNames[t]), std::string(kTotalNames[t]));
  CHECK(of.size() == kTotalNames.size() + 5 * i.classes.size());
  for (size_t c = 0; c < i.classes.size(); ++c) {
    const ClassIntervals& k = i.classes[c];
    const auto check = [&](const FigureInterval& ours, const char* name) {
      const std::string key = fmt::format("{} {}", c, name);
      expect_interval(ours, of.at(key), key);
    };
    check(k.recall, "recall");
    check(k.precision, "precision");
    check(k.specificity, "specificity");
    check(k.auc, "auc");
    check(k.average_precision, "average_precision");
  }
}

}  // namespace

TEST_CASE("bootstrap intervals are numpy's percentiles of scikit-learn's measures") {
  for (const RecordedMeasures& c : recorded_measures()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const json& expected = c.expected["intervals"];
    BootstrapOptions options{.resamples = expected["resamples"], .seed = expected["seed"]};
    const ConfidenceIntervals i = bootstrap_intervals(c.logits, c.labels, c.classes, options);
    CHECK_FALSE(i.grouped);
    expect_intervals(i, expected);

    options.threads = 3;
    const ConfidenceIntervals again = bootstrap_intervals(c.logits, c.labels, c.classes, options);
    for (size_t t = 0; t < kTotalNames.size(); ++t) {
      REQUIRE(again.totals[t].has_value() == i.totals[t].has_value());
      if (i.totals[t]) CHECK(again.totals[t]->low == i.totals[t]->low);
      if (i.totals[t]) CHECK(again.totals[t]->high == i.totals[t]->high);
    }
    options.seed += 1;
    const ConfidenceIntervals other = bootstrap_intervals(c.logits, c.labels, c.classes, options);
    if (c.labels.size() > 100) CHECK(other[Total::f1_macro]->low != i[Total::f1_macro]->low);
  }
}

TEST_CASE("groups are drawn with all of their samples") {
  for (const RecordedMeasures& c : recorded_measures()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const json& expected = c.expected["grouped_intervals"];
    const BootstrapOptions options{
        .resamples = expected["resamples"], .seed = expected["seed"], .threads = 2};
    const ConfidenceIntervals i =
        bootstrap_intervals(c.logits, c.labels, c.classes, options, c.groups);
    CHECK(i.grouped);
    expect_intervals(i, expected);
  }
}

TEST_CASE("groups of one sample each are samples; groups of alike samples widen intervals") {
  const RecordedMeasures c = recorded_measures()[0];
  std::vector<uint32_t> single(c.labels.size());
  for (size_t i = 0; i < single.size(); ++i) single[i] = static_cast<uint32_t>(i);
  const auto plain = bootstrap_intervals(c.logits, c.labels, c.classes, {.resamples = 200});
  const auto same = bootstrap_intervals(c.logits, c.labels, c.classes, {.resamples = 200}, single);
  for (size_t t = 0; t < kTotalNames.size(); ++t)
    CHECK(same.totals[t]->low == plain.totals[t]->low);

  // Every image nine times: as samples they seem to say three times as much as they do.
  std::vector<float> logits;
  std::vector<int32_t> labels;
  std::vector<uint32_t> groups;
  for (size_t i = 0; i < c.labels.size(); ++i)
    for (int copy = 0; copy < 9; ++copy) {
      logits.insert(logits.end(), c.logits.begin() + i * c.classes,
                    c.logits.begin() + (i + 1) * c.classes);
      labels.push_back(c.labels[i]);
      groups.push_back(static_cast<uint32_t>(i));
    }
  const auto width = [](const FigureInterval& i) { return i->high - i->low; };
  const auto naive = bootstrap_intervals(logits, labels, c.classes, {.resamples = 200});
  const auto grouped = bootstrap_intervals(logits, labels, c.classes, {.resamples = 200}, groups);
  for (const Total t : {Total::top1, Total::auc_macro, Total::brier}) {
    CHECK(width(grouped[t]) == doctest::Approx(width(plain[t])).epsilon(1e-9));
    CHECK(width(naive[t]) < 0.5 * width(grouped[t]));
  }
  CHECK(width(naive.classes[0].recall) < 0.5 * width(grouped.classes[0].recall));
}

TEST_CASE("Wilson's interval: published values, ends, and nothing without samples") {
  CHECK(normal_quantile(0.975) == doctest::Approx(1.959963984540054).epsilon(1e-14));
  CHECK(normal_quantile(0.5) == 0);
  CHECK(normal_quantile(1e-12) == doctest::Approx(-7.034483825301131).epsilon(1e-12));
  // Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
  const auto rounded = [](int64_t found, int64_t samples) {
    const ConfidenceInterval i = *wilson_interval(found, samples);
    return fmt::format("{:.4f} {:.4f}", i.low, i.high);
  };
  CHECK(rounded(81, 263) == "0.2553 0.3662");
  CHECK(rounded(15, 148) == "0.0624 0.1605");
  CHECK(rounded(0, 20) == "0.0000 0.1611");
  CHECK(rounded(1, 29) == "0.0061 0.1718");
  CHECK(wilson_interval(0, 20)->low == 0);
  CHECK(wilson_interval(20, 20)->high == 1);
  CHECK_FALSE(wilson_interval(0, 0).has_value());
  CHECK_FALSE(percentile_interval({std::nan("")}).has_value());
  CHECK(percentile_interval({1, std::nan(""), 3}, 0.5)->low == 1.5);
}

TEST_CASE("shares of 0 and 1 have Wilson's interval, one unit has none") {
  // Four images that are all right, and the same as one group.
  const std::vector<float> logits = {2, 0, 2, 0, 0, 2, 0, 2};
  const std::vector<int32_t> labels = {0, 0, 1, 1};
  const auto right = bootstrap_intervals(logits, labels, 2, {.resamples = 50});
  CHECK(right[Total::top1]->low == wilson_interval(4, 4)->low);
  CHECK(right[Total::top1]->high == 1);
  CHECK(right[Total::loss]->low == right[Total::loss]->high);
  const std::vector<uint32_t> one(4, 0);
  const auto alone = bootstrap_intervals(logits, labels, 2, {.resamples = 50}, one);
  CHECK_FALSE(alone[Total::loss].has_value());
  CHECK_FALSE(alone[Total::auc_macro].has_value());
  CHECK(alone[Total::top1]->low == wilson_interval(1, 1)->low);
}
