// Measures of several labels against what scikit-learn says of the same logits, recorded by
// tools/compare/label_metrics.py.
#include "engine/measures/labels.h"

#include <cmath>
#include <limits>
#include <map>
#include <utility>

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

namespace {

double plain_sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

// By halving: dL/dβ of the mean binary cross entropy of β z is the mean of (σ(β z) − y) z.
double plain_temperature(const Case& c) {
  double low = -7, high = 7;  // log β
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2, beta = std::exp(middle);
    double slope = 0;
    for (size_t k = 0; k < c.logits.size(); ++k) {
      if (c.presence[k] == Presence::missing) continue;
      const double z = c.logits[k];
      slope += (plain_sigmoid(beta * z) - (c.presence[k] == Presence::present)) * z;
    }
    (slope > 0 ? high : low) = middle;
  }
  return std::exp(-low);
}

}  // namespace

TEST_CASE("the temperature of labels makes the binary cross entropy of known entries least") {
  int fitted = 0;
  for (const Case& c : cases()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const double plain = plain_temperature(c);
    const auto t = fit_label_temperature(c.logits, c.presence);
    REQUIRE(t.has_value() == (plain > 2e-3 && plain < 900));
    if (!t) continue;
    ++fitted;
    CHECK(std::abs(*t / plain - 1) <= 1e-9);
    const auto loss = [&](double temperature) {
      return *evaluate_labels(divided_by(c.logits, temperature), c.presence, c.labels).loss;
    };
    CHECK(loss(*t) < loss(1.01 * *t));
    CHECK(loss(*t) < loss(*t / 1.01));
  }
  CHECK(fitted >= 3);
  using P = Presence;
  const std::vector<float> logits = {2, -1, 3};
  CHECK_FALSE(
      fit_label_temperature(logits, std::vector{P::present, P::absent, P::missing}).has_value());
  CHECK_FALSE(
      fit_label_temperature(logits, std::vector{P::missing, P::missing, P::missing}).has_value());
  // Three of four with a logit of 4 are present: σ(4 / T) = 3/4.
  const auto t = fit_label_temperature(std::vector<float>{4, 4, 4, 4},
                                       std::vector{P::present, P::present, P::absent, P::present});
  CHECK(std::abs(*t - 4 / std::log(3.)) <= 1e-9 * *t);
}

TEST_CASE("a threshold after a temperature calls the same entries present") {
  for (const Case& c : cases())
    for (const double temperature : {0.3, 1.7, 4.}) {
      const std::vector<double> before = sigmoids(c.logits),
                                after = sigmoids(divided_by(c.logits, temperature));
      for (size_t t = 0; t < before.size(); t += 7) {
        const double threshold = divided_threshold(before[t], temperature);
        CHECK(threshold == after[t]);
        for (size_t i = 0; i < before.size(); ++i)
          CHECK((before[i] >= before[t]) == (after[i] >= threshold));
      }
    }
  CHECK(divided_threshold(0.5, 3) == 0.5);
}

TEST_CASE("a decision is the surer the farther from its threshold, as odds have it") {
  CHECK(decision_confidence(0.9, 0.5) == doctest::Approx(0.9).epsilon(1e-15));
  CHECK(decision_confidence(0.2, 0.5) == doctest::Approx(0.8).epsilon(1e-15));
  CHECK(decision_confidence(0.2, 0.2) == doctest::Approx(0.5).epsilon(1e-15));
  // Odds of 1 over odds of 1/9, and of 1/99 over 1/9.
  CHECK(decision_confidence(0.5, 0.1) == doctest::Approx(0.9).epsilon(1e-15));
  CHECK(decision_confidence(0.01, 0.1) == doctest::Approx(11. / 12).epsilon(1e-15));
  CHECK(decision_confidence(0, 0.3) == 1);
  CHECK(decision_confidence(1, 0.3) == 1);
  CHECK(decision_confidence(1, 1) == 0.5);
  CHECK(decision_confidence(0, 0) == 0.5);
  // It is σ(|z − z(t)|), and with a temperature σ(|z − z(t)| / T).
  for (const double z : {-3., -0.2, 1., 4.})
    CHECK(std::abs(decision_confidence(plain_sigmoid(z), plain_sigmoid(0.7)) -
                   plain_sigmoid(std::abs(z - 0.7))) < 1e-12);
}

TEST_CASE("answers of labels: every known entry is one, and what is left of them by plain counts") {
  for (const Case& c : cases()) {
    CAPTURE(c.expected["name"].get<std::string>());
    const std::vector<double> p = sigmoids(c.logits);
    std::vector<std::pair<double, bool>> plain;
    for (size_t i = 0; i < p.size(); ++i) {
      if (c.presence[i] == Presence::missing) continue;
      const double t = c.thresholds[i % size_t(c.labels)];
      const double sure = plain_sigmoid(std::abs(std::log(p[i] / (1 - p[i])) -  //
                                                 std::log(t / (1 - t))));
      plain.emplace_back(sure, (p[i] >= t) == (c.presence[i] == Presence::present));
    }
    const Answers answers = all_label_answers(p, c.presence, c.thresholds);
    REQUIRE(answers.confidences.size() == plain.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      CHECK(std::abs(answers.confidences[i] - plain[i].first) <= 1e-9);
      CHECK(answers.right[i] == plain[i].second);
    }
    for (const RejectPoint& point : reject_curve(answers.confidences, answers.right, 20)) {
      double answered = 0, right = 0;
      for (size_t i = 0; i < plain.size(); ++i)
        if (answers.confidences[i] >= point.threshold) ++answered, right += plain[i].second;
      CHECK(std::abs(point.coverage - answered / double(plain.size())) <= 1e-9);
      CHECK(std::abs(point.accuracy - right / answered) <= 1e-9);
    }
    size_t of_labels = 0;
    for (int label = 0; label < c.labels; ++label)
      of_labels += label_answers(p, c.presence, c.thresholds, c.labels, label).confidences.size();
    CHECK(of_labels == plain.size());
  }
}

TEST_CASE("thresholds may differ by entry: figures are those of the parts that share them") {
  const Case c = cases()[1];
  const auto labels = size_t(c.labels);
  const size_t half = c.presence.size() / labels / 2 * labels;
  const std::vector<double> first(labels, 0.3), second(labels, 0.6);
  std::vector<double> each;
  for (size_t i = 0; i < c.presence.size(); ++i) each.push_back(i < half ? 0.3 : 0.6);
  const std::span logits(c.logits);
  const std::span presence(c.presence);
  const MultilabelMetrics all = evaluate_labels(logits, presence, c.labels, each),
                          a = evaluate_labels(logits.first(half), presence.first(half), c.labels,
                                              first),
                          b = evaluate_labels(logits.subspan(half), presence.subspan(half),
                                              c.labels, second);
  for (size_t i = 0; i < labels; ++i) {
    const Called &of = all.labels[i].called, &in_a = a.labels[i].called, &in_b = b.labels[i].called;
    CHECK(of.true_positives == in_a.true_positives + in_b.true_positives);
    CHECK(of.false_positives == in_a.false_positives + in_b.false_positives);
    CHECK(of.true_negatives == in_a.true_negatives + in_b.true_negatives);
  }
  CHECK(all.loss == evaluate_labels(logits, presence, c.labels).loss);
}

TEST_CASE("mean sensitivity of labels at a specificity is the best of all thresholds") {
  for (const Case& c : cases())
    for (const double specificity : {0.5, 0.9}) {
      double sum = 0, count = 0;
      for (size_t label = 0; label < size_t(c.labels); ++label) {
        double best = 0, positives = 0, negatives = 0;
        std::map<double, std::pair<double, double>> at;  // negatives and positives of each logit
        for (size_t i = label; i < c.presence.size(); i += size_t(c.labels)) {
          if (c.presence[i] == Presence::missing) continue;
          const bool present = c.presence[i] == Presence::present;
          ++(present ? at[c.logits[i]].second : at[c.logits[i]].first);
          ++(present ? positives : negatives);
        }
        if (positives == 0 || negatives == 0) continue;
        double below = 0, missed = 0;  // at the threshold of each logit
        for (const auto& [logit, n] : at) {
          if (below / negatives >= specificity) best = std::max(best, 1 - missed / positives);
          below += n.first, missed += n.second;
        }
        sum += best, ++count;
      }
      const auto ours = mean_label_sensitivity_at(c.logits, c.presence, c.labels, specificity);
      REQUIRE(ours.has_value() == (count > 0));
      if (ours) CHECK(std::abs(*ours - sum / count) <= 1e-9);
    }
}
