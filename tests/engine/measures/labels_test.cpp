// Measures of several labels against what scikit-learn says of the same logits, recorded by
// tools/compare/label_metrics.py.
#include "engine/measures/labels.h"

#include <cmath>

#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

struct Case {
  explicit Case(const json& c)
      : expected(c),
        labels(c["labels"]),
        logits(c["logits"].get<std::vector<float>>()),
        thresholds(c["thresholds"].get<std::vector<double>>()) {
    for (const int value : c["presence"]) presence.push_back(static_cast<Presence>(value));
  }
  json expected;
  int labels;
  std::vector<float> logits;
  std::vector<double> thresholds;
  std::vector<Presence> presence;
};

std::vector<Case> cases() {
  const json file = golden("label_metrics.json");
  std::vector<Case> all;
  for (const json& c : file["cases"]) all.emplace_back(c);
  REQUIRE(all.size() == 4);
  return all;
}

void expect_recorded_labels(const std::optional<double>& ours, const json& theirs,
                            const std::string& what) {
  CAPTURE(what);
  REQUIRE(ours.has_value() == !theirs.is_null());
  if (ours) CHECK(std::abs(*ours - theirs.get<double>()) <= 1e-9);
}

void expect_recorded_labels(const LabelAverages& ours, const json& theirs) {
  expect_recorded_labels(ours.auc, theirs["auc"], "AUC");
  expect_recorded_labels(ours.average_precision, theirs["average_precision"], "average precision");
  expect_recorded_labels(ours.sensitivity, theirs["sensitivity"], "sensitivity");
  expect_recorded_labels(ours.specificity, theirs["specificity"], "specificity");
  expect_recorded_labels(ours.precision, theirs["precision"], "precision");
  expect_recorded_labels(ours.f1, theirs["f1"], "F1");
}

}  // namespace

TEST_CASE("measures of several labels are scikit-learn's") {
  for (const Case& c : cases()) {
    const json& e = c.expected;
    CAPTURE(e["name"].get<std::string>());
    const MultilabelMetrics m = evaluate_labels(c.logits, c.presence, c.labels, c.thresholds);
    CHECK(m.samples == int64_t(c.presence.size()) / c.labels);
    expect_recorded_labels(m.loss, e["totals"]["loss"], "loss");
    expect_recorded_labels(m.brier, e["totals"]["brier"], "Brier score");
    expect_recorded_labels(m.subset_accuracy, e["totals"]["subset_accuracy"], "subset accuracy");
    expect_recorded_labels(m.hamming_loss, e["totals"]["hamming_loss"], "Hamming loss");
    int64_t missing = 0;
    for (int i = 0; i < c.labels; ++i) {
      const LabelMetrics& l = m.labels[size_t(i)];
      CAPTURE(i);
      CHECK(l.positives == e["positives"][i]);
      CHECK(l.negatives == e["negatives"][i]);
      CHECK(l.missing == e["missing"][i]);
      missing += l.missing;
      expect_recorded_labels(l.loss, e["loss_of"][i], "loss");
      expect_recorded_labels(l.brier, e["brier_of"][i], "Brier score");
      expect_recorded_labels(LabelAverages{l.auc, l.average_precision, l.called.sensitivity(),
                                           l.called.specificity(), l.called.precision(), l.f1()},
                             e["per_label"][i]);
    }
    CHECK(m.missing == missing);
    expect_recorded_labels(m.macro, e["macro"]);
    expect_recorded_labels(m.micro, e["micro"]);
  }
}

TEST_CASE("thresholds of labels are where sensitivity and specificity are largest together") {
  for (const Case& c : cases()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const auto chosen = choose_label_thresholds(c.logits, c.presence, c.labels, {});
    REQUIRE(chosen.size() == size_t(c.labels));
    for (int i = 0; i < c.labels; ++i) {
      const json& theirs = c.expected["youden"][i];
      REQUIRE(chosen[size_t(i)].has_value() == !theirs.is_null());
      if (theirs.is_null()) continue;
      expect_recorded_labels(chosen[size_t(i)]->threshold, theirs[0], "threshold");
      expect_recorded_labels(chosen[size_t(i)]->sensitivity, theirs[1], "sensitivity");
      expect_recorded_labels(chosen[size_t(i)]->specificity, theirs[2], "specificity");
    }
  }
}

TEST_CASE("a missing label counts nowhere, whatever its logit") {
  const Case c = cases()[1];
  std::vector<float> other = c.logits;
  for (size_t i = 0; i < other.size(); ++i)
    if (c.presence[i] == Presence::missing) other[i] = -3 * other[i] + 7;
  const MultilabelMetrics a = evaluate_labels(c.logits, c.presence, c.labels),
                          b = evaluate_labels(other, c.presence, c.labels);
  CHECK(a.loss == b.loss);
  CHECK(a.micro.auc == b.micro.auc);
  CHECK(a.subset_accuracy == b.subset_accuracy);
  for (size_t i = 0; i < a.labels.size(); ++i)
    CHECK(a.labels[i].average_precision == b.labels[i].average_precision);
}
