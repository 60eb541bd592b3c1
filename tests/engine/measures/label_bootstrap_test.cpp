// Intervals of several labels against resamples that are written out and measured one by one.
#include "engine/measures/label_bootstrap.h"

#include <doctest/doctest.h>

#include <cmath>

#include "engine/rng.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kImages = 60, kLabels = 3;

struct Problem {
  std::vector<float> logits;
  std::vector<Presence> presence;
  std::vector<uint32_t> groups;  // of one to four images each
  std::vector<double> thresholds = {0.4, 0.5, 0.7};
};

// The last label is rare, so that some resamples have none of it.
Problem draw_problem() {
  Problem p;
  Rng rng({.seed = 3, .purpose = purpose("labels")});
  for (uint32_t i = 0, group = 0; i < kImages; ++i) {
    p.groups.push_back(group);
    group += rng.below(4) == 0 || i % 4 == 3;
    for (int c = 0; c < kLabels; ++c) {
      const bool present = rng.below(c == 2 ? 20 : 2) == 0;
      p.presence.push_back(rng.below(6) == 0 ? Presence::missing
                           : present         ? Presence::present
                                             : Presence::absent);
      // In steps, so that there are ties.
      p.logits.push_back(float(int(rng.below(9)) - 4 + 2 * present) / 2);
    }
  }
  return p;
}

// As Resamples draws them.
std::vector<MultilabelMetrics> written_out(const Problem& p, const BootstrapOptions& options,
                                           bool grouped) {
  const uint32_t units = grouped ? p.groups.back() + 1 : kImages;
  std::vector<MultilabelMetrics> all;
  for (int r = 0; r < options.resamples; ++r) {
    Rng rng({.seed = options.seed, .position = uint32_t(r), .purpose = purpose("bootstrap")});
    std::vector<float> logits;
    std::vector<Presence> presence;
    for (uint32_t draw = 0; draw < units; ++draw) {
      const uint32_t unit = rng.below(units);
      for (uint32_t i = 0; i < kImages; ++i) {
        if ((grouped ? p.groups[i] : i) != unit) continue;
        const auto at = i * kLabels;
        logits.insert(logits.end(), &p.logits[at], &p.logits[at] + kLabels);
        presence.insert(presence.end(), &p.presence[at], &p.presence[at] + kLabels);
      }
    }
    all.push_back(evaluate_labels(logits, presence, kLabels, p.thresholds));
  }
  return all;
}

void expect_percentiles(const FigureInterval& ours, const std::vector<MultilabelMetrics>& resamples,
                        auto figure, const char* what) {
  CAPTURE(what);
  std::vector<double> values;
  for (const MultilabelMetrics& m : resamples)
    values.push_back(std::optional<double>(figure(m)).value_or(NAN));
  const auto theirs = percentile_interval(values);
  REQUIRE(ours.has_value() == theirs.has_value());
  if (!ours) return;
  CHECK(ours->low == doctest::Approx(theirs->low).epsilon(1e-12));
  CHECK(ours->high == doctest::Approx(theirs->high).epsilon(1e-12));
}

void expect_percentiles(const LabelIntervals& ours, const std::vector<MultilabelMetrics>& resamples,
                        auto averages) {
  const auto expect = [&](const FigureInterval& interval, auto member, const char* what) {
    expect_percentiles(
        interval, resamples, [&](const auto& m) { return averages(m).*member; }, what);
  };
  expect(ours.auc, &LabelAverages::auc, "AUC");
  expect(ours.average_precision, &LabelAverages::average_precision, "average precision");
  expect(ours.sensitivity, &LabelAverages::sensitivity, "sensitivity");
  expect(ours.specificity, &LabelAverages::specificity, "specificity");
  expect(ours.precision, &LabelAverages::precision, "precision");
  expect(ours.f1, &LabelAverages::f1, "F1");
}

}  // namespace

TEST_CASE("intervals of labels are percentiles of resamples that are written out") {
  const Problem p = draw_problem();
  for (const bool grouped : {false, true}) {
    CAPTURE(grouped);
    BootstrapOptions options{.resamples = 100, .seed = 5};
    const auto groups = grouped ? std::span<const uint32_t>(p.groups) : std::span<const uint32_t>();
    const MultilabelIntervals i =
        bootstrap_label_intervals(p.logits, p.presence, kLabels, p.thresholds, options, groups);
    CHECK(i.units == (grouped ? int64_t(p.groups.back()) + 1 : kImages));
    CHECK(i.grouped == grouped);
    const auto resamples = written_out(p, options, grouped);
    expect_percentiles(
        i.loss, resamples, [](const auto& m) { return m.loss; }, "loss");
    expect_percentiles(
        i.brier, resamples, [](const auto& m) { return m.brier; }, "Brier score");
    expect_percentiles(
        i.subset_accuracy, resamples, [](const auto& m) { return m.subset_accuracy; }, "subset");
    expect_percentiles(
        i.hamming_loss, resamples, [](const auto& m) { return m.hamming_loss; }, "Hamming");
    expect_percentiles(i.macro, resamples, [](const auto& m) { return m.macro; });
    expect_percentiles(i.micro, resamples, [](const auto& m) { return m.micro; });
    for (size_t c = 0; c < kLabels; ++c) {
      const auto label = [&](const auto& m) { return m.labels[c]; };
      expect_percentiles(
          i.labels[c].auc, resamples, [&](const auto& m) { return label(m).auc; },
          "AUC of a label");
      expect_percentiles(
          i.labels[c].average_precision, resamples,
          [&](const auto& m) { return label(m).average_precision; }, "AP of a label");
      expect_percentiles(
          i.labels[c].f1, resamples, [&](const auto& m) { return label(m).f1(); }, "F1 of a label");
    }
    options.threads = 3;
    const MultilabelIntervals again =
        bootstrap_label_intervals(p.logits, p.presence, kLabels, p.thresholds, options, groups);
    CHECK(again.macro.auc->low == i.macro.auc->low);
    CHECK(again.micro.f1->high == i.micro.f1->high);
  }
}

TEST_CASE("shares of a label: Wilson's interval, with groups that of resamples") {
  const Problem p = draw_problem();
  const MultilabelMetrics m = evaluate_labels(p.logits, p.presence, kLabels, p.thresholds);
  const BootstrapOptions options{.resamples = 100, .seed = 5};
  const auto alone =
      bootstrap_label_intervals(p.logits, p.presence, kLabels, p.thresholds, options);
  const auto grouped =
      bootstrap_label_intervals(p.logits, p.presence, kLabels, p.thresholds, options, p.groups);
  const auto resamples = written_out(p, options, true);
  const Called& called = m.labels[0].called;
  const auto wilson =
      wilson_interval(called.true_positives, called.true_positives + called.false_negatives);
  CHECK(alone.labels[0].sensitivity->low == wilson->low);
  CHECK(alone.labels[0].sensitivity->high == wilson->high);
  expect_percentiles(
      grouped.labels[0].sensitivity, resamples,
      [](const auto& of) { return of.labels[0].called.sensitivity(); }, "sensitivity");
  // A label that no image has.
  std::vector<Presence> absent(p.presence.size(), Presence::absent);
  const auto none = bootstrap_label_intervals(p.logits, absent, kLabels, {}, options);
  CHECK_FALSE(none.labels[0].auc.has_value());
  CHECK_FALSE(none.macro.sensitivity.has_value());
  CHECK(none.labels[0].specificity.has_value());
}
