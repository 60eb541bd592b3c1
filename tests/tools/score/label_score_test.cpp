// Scores of several labels by the values of a column, against plain loops over the images of each.
#include "tools/score/label_score.h"

#include <doctest/doctest.h>

#include <cmath>

#include "engine/rng.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

constexpr size_t kImages = 90, kLabels = 3;

// Images of groups of up to three, in columns by sex; one image does not count, and of the value
// "x" there is one image alone, of which nothing is known of the last label.
struct Problem {
  Dataset data{.task = Task::labels, .classes = {"ring", "star", "a,b"}};
  EvaluationResult result;
  Column sex{.name = "sex"};

  Problem() {
    Rng rng({.seed = 11, .purpose = purpose("by")});
    for (size_t i = 0; i < kImages; ++i) {
      Sample sample{.path = std::to_string(i), .group = "p" + std::to_string(i / 3)};
      for (size_t c = 0; c < kLabels; ++c) {
        const bool present = rng.chance(0.4f);
        sample.labels.push_back(rng.chance(0.2f) ? Presence::missing
                                : present        ? Presence::present
                                                 : Presence::absent);
        result.logits.push_back(float(int(rng.below(9)) - 4 + 2 * present) / 2);  // with ties
      }
      data.samples.push_back(sample);
      result.counted.push_back(i != 5);
      sex.values.push_back(i % 3 == 0 ? "f" : i % 3 == 1 ? "m" : "");
    }
    sex.values[7] = "x";
    data.samples[7].labels = {Presence::present, Presence::absent, Presence::missing};
    arrange(sex);
  }
};

struct Counted {
  double images = 0, with_label = 0, right = 0, known = 0, squares = 0, loss = 0;
  std::vector<double> auc, average_precision;  // NaN where there is none
};

double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

// Pairs of a positive and a negative, and precision at every positive's score.
void rank(const std::vector<std::pair<double, bool>>& entries, Counted& of) {
  double pairs = 0, won = 0, positives = 0, precision = 0;
  for (const auto& [score, positive] : entries) {
    if (!positive) continue;
    ++positives;
    double above = 0, hits = 0;
    for (const auto& [other, other_positive] : entries) {
      if (!other_positive) ++pairs, won += score > other ? 1 : score == other ? 0.5 : 0;
      if (other >= score) ++above, hits += other_positive;
    }
    precision += hits / above;
  }
  of.auc.push_back(won / pairs);  // NaN where there is no pair
  of.average_precision.push_back(precision / positives);
}

Counted count(const Problem& problem, const std::string& value, const std::vector<double>& at) {
  Counted of;
  std::vector<std::vector<std::pair<double, bool>>> entries(kLabels);
  for (size_t i = 0; i < kImages; ++i) {
    if (!problem.result.counted[i] || problem.sex.values[i] != value) continue;
    ++of.images;
    bool any = false, wrong = false;
    for (size_t c = 0; c < kLabels; ++c) {
      const Presence presence = problem.data.samples[i].labels[c];
      if (presence == Presence::missing) continue;
      const bool y = presence == Presence::present;
      const double p = sigmoid(problem.result.logits[i * kLabels + c]);
      entries[c].emplace_back(p, y);
      of.squares += (p - y) * (p - y);
      of.loss -= std::log(y ? p : 1 - p);
      ++of.known;
      any = true;
      wrong = wrong || y != (p >= at[c]);
    }
    of.with_label += any;
    of.right += any && !wrong;
  }
  for (const auto& label : entries) rank(label, of);
  return of;
}

void check_figure(const std::optional<double>& ours, double theirs, const char* what) {
  CAPTURE(what);
  REQUIRE(ours.has_value() == !std::isnan(theirs));
  if (ours) CHECK(std::abs(*ours - theirs) <= 1e-12);
}

double mean(const std::vector<double>& values) {
  double sum = 0, count = 0;
  for (const double value : values)
    if (!std::isnan(value)) sum += value, ++count;
  return sum / count;
}

}  // namespace

TEST_CASE("several labels: tables by the values of a column are counts of their images alone") {
  const Problem problem;
  const LabelScore scored =
      score_labels(problem.result, problem.data, {.resamples = 40, .seed = 3, .by = {problem.sex}});
  REQUIRE(scored.by.size() == 1);
  CHECK(scored.by[0].column == "sex");
  REQUIRE(scored.by[0].rows.size() == 4);  // f, m, x, (empty)
  const std::vector<double> thresholds =
      label_thresholds(scored.options.decisions, problem.data.classes);
  int64_t images = 0;
  for (const LabelSubgroup& row : scored.by[0].rows) {
    CAPTURE(row.value);
    const Counted of = count(problem, row.value, thresholds);
    const MultilabelMetrics& m = row.metrics;
    images += m.samples;
    CHECK(double(m.samples) == of.images);
    check_figure(m.subset_accuracy, of.right / of.with_label, "all labels right");
    check_figure(m.brier, of.squares / of.known, "Brier");
    check_figure(m.loss, of.loss / of.known, "loss");
    check_figure(m.macro.auc, mean(of.auc), "macro AUC");
    check_figure(m.macro.average_precision, mean(of.average_precision), "macro AP");
    for (size_t c = 0; c < kLabels; ++c) {
      check_figure(m.labels[c].auc, of.auc[c], "AUC");
      check_figure(m.labels[c].average_precision, of.average_precision[c], "AP");
    }
    // A third of the images of each group has one value: each is of a group of its own.
    CHECK(row.groups == m.samples);
    REQUIRE(row.intervals.has_value());
    CHECK(row.intervals->grouped);
    CHECK(row.intervals->units == row.groups);
  }
  CHECK(images == int64_t(kImages) - 1);

  // The same images alone have the same intervals.
  Problem alone;
  for (size_t i = 0; i < kImages; ++i)
    alone.result.counted[i] = alone.result.counted[i] && alone.sex.values[i] == "m";
  const LabelScore men =
      score_labels(alone.result, alone.data,
                   {.resamples = 40, .seed = 3, .decisions = scored.options.decisions});
  CHECK(to_json(men, alone.data.classes)["labels"] ==
        to_json(scored, problem.data.classes)["by"]["sex"][1]["labels"]);
}

TEST_CASE("several labels: figures that a small group has not are said, and are not 0") {
  const Problem problem;
  const LabelScore scored =
      score_labels(problem.result, problem.data, {.resamples = 10, .by = {problem.sex}});
  const json rows = to_json(scored, problem.data.classes)["by"]["sex"];
  const json& x = rows[2];
  CHECK(x["value"] == "x");
  CHECK(x["samples"] == 1);
  CHECK(x["groups"] == 1);
  CHECK(x["missing"] == 1);
  CHECK(x["auc_macro"].is_null());
  CHECK(x["intervals"]["auc_macro"].is_null());
  CHECK(x["subset_accuracy"].is_number());
  for (const char* figure : {"loss", "brier", "auc", "average_precision", "sensitivity", "f1"})
    CHECK(x["labels"][2][figure].is_null());
  CHECK(x["labels"][0]["auc"].is_null());
  CHECK(x["labels"][0]["average_precision"] == 1);
  CHECK(x["labels"][1]["average_precision"].is_null());
  CHECK(rows[3]["value"] == "");
  const std::string text = table(scored, problem.data.classes);
  CHECK(mentions(text, "sex         images  groups"));
  CHECK(mentions(text, "  (empty) "));
  // Of one image nothing has an area.
  CHECK(mentions(text, "  star              x        0       1               -               -\n"));
}

namespace {

// The problem without entries that are equally far from their thresholds.
Problem without_ties() {
  Problem problem;
  for (size_t i = 0; i < problem.result.logits.size(); ++i)
    problem.result.logits[i] += 0.05f * std::sin(float(i));
  return problem;
}

// What is left of the known entries that are answered from the confidence `from` on.
struct Left {
  double known = 0, answered = 0, right = 0;
};

Left left(const Problem& problem, const auto& temperature, const auto& threshold, const auto& from,
          size_t first = 0, size_t stride = 1) {
  Left of;
  for (size_t at = first; at < kImages * kLabels; at += stride) {
    const size_t image = at / kLabels;
    const Presence presence = problem.data.samples[image].labels[at % kLabels];
    if (!problem.result.counted[image] || presence == Presence::missing) continue;
    ++of.known;
    const double z = problem.result.logits[at], t = threshold(image, at % kLabels);
    const double distance = std::abs(z - std::log(t / (1 - t))) / temperature(image);
    if (sigmoid(distance) < from(image) - 1e-7) continue;
    ++of.answered;
    of.right += (z >= std::log(t / (1 - t)) - 1e-7) == (presence == Presence::present);
  }
  return of;
}

}  // namespace

TEST_CASE(
    "several labels: the temperature and the withheld decisions are counts of known entries") {
  const Problem problem = without_ties();
  const Decisions decisions = decide(problem.result, problem.data, {.reject_accuracy = 0.85});
  REQUIRE(decisions.temperature.has_value());
  REQUIRE(decisions.reject->as_given.has_value());
  const double t = *decisions.temperature;
  const std::vector<double> thresholds = label_thresholds(decisions, problem.data.classes);
  const LabelScore given =
      score_labels(problem.result, problem.data, {.resamples = 0, .decisions = decisions});
  double loss = 0, divided = 0, brier = 0, known = 0;
  std::vector<double> samples(kCalibrationBins), sums(kCalibrationBins), present(kCalibrationBins);
  for (size_t at = 0; at < kImages * kLabels; ++at) {
    const Presence presence = problem.data.samples[at / kLabels].labels[at % kLabels];
    if (!problem.result.counted[at / kLabels] || presence == Presence::missing) continue;
    const bool y = presence == Presence::present;
    const double z = problem.result.logits[at], p = sigmoid(double(float(z / t)));
    ++known;
    loss -= std::log(y ? sigmoid(z) : 1 - sigmoid(z));
    divided -= std::log(y ? p : 1 - p);
    brier += (p - y) * (p - y);
    const auto bin = size_t(calibration_bin(p));
    ++samples[bin], sums[bin] += p, present[bin] += y;
  }
  double error = 0;
  for (size_t bin = 0; bin < samples.size(); ++bin)
    error += std::abs(present[bin] - sums[bin]) / known;
  CHECK(std::abs(given.as_given->loss - loss / known) <= 1e-9);
  CHECK(std::abs(given.calibrated->loss - divided / known) <= 1e-9);
  CHECK(std::abs(given.calibrated->brier - brier / known) <= 1e-9);
  CHECK(std::abs(given.calibrated->calibration.error - error) <= 1e-9);
  CHECK(given.calibrated->loss < given.as_given->loss);

  const json m = to_json(given, problem.data.classes);
  CHECK(m["temperature"] == t);
  CHECK(m["calibrated"]["calibration"][0].contains("present"));
  CHECK(m["thresholds"]["chosen_here"] == false);
  const auto of_all = [&](size_t, size_t c) { return thresholds[c]; };
  const Left kept = left(
      problem, [](size_t) { return 1.; }, of_all,
      [&](size_t) { return *decisions.reject->as_given; });
  REQUIRE(kept.answered < kept.known);
  CHECK(kept.right / kept.answered >= 0.85);
  CHECK(std::abs(m["reject_threshold"]["coverage"].get<double>() - kept.answered / known) <= 1e-9);
  CHECK(std::abs(m["reject_threshold"]["accuracy"].get<double>() - kept.right / kept.answered) <=
        1e-9);
  for (size_t c = 0; c < kLabels; ++c) {
    const Left of = left(
        problem, [](size_t) { return 1.; }, of_all,
        [&](size_t) { return *decisions.reject->as_given; }, c, kLabels);
    const json& answered = m["labels"][c]["answered"];
    CHECK(std::abs(answered["coverage"].get<double>() - of.answered / of.known) <= 1e-9);
    CHECK(std::abs(answered["accuracy"].get<double>() - of.right / of.answered) <= 1e-9);
  }
  const std::string text = table(given, problem.data.classes);
  CHECK(mentions(text, "  temperature "));
  CHECK(mentions(text, "right of the surest "));
  CHECK(mentions(text, "which are 0.85 right in validation:\n"));

  // Calibrated: other probabilities, the same decisions, and the same ones withheld.
  const LabelScore calibrated = score_labels(
      problem.result, problem.data, {.resamples = 0, .decisions = decisions, .calibrated = true});
  const json d = to_json(calibrated, problem.data.classes);
  CHECK(d["loss"] == m["calibrated"]["loss"]);
  CHECK(d["uncalibrated"]["loss"] == m["loss"]);
  CHECK(d["calibration_error"] == m["calibrated"]["calibration_error"]);
  CHECK(d["hamming_loss"] == m["hamming_loss"]);
  for (size_t c = 0; c < kLabels; ++c)
    CHECK(d["labels"][c]["true_positives"] == m["labels"][c]["true_positives"]);
  CHECK(d["reject_threshold"]["coverage"] == m["reject_threshold"]["coverage"]);
  CHECK(d["reject_threshold"]["accuracy"] == m["reject_threshold"]["accuracy"]);
}

TEST_CASE("several labels: what the images of other folds decide is what a fold is scored by") {
  Problem problem = without_ties();
  for (size_t i = 0; i < kImages; ++i) problem.data.samples[i].fold = 1 + int(i / 3 % 3);
  const DecisionRules rules{.thresholds = parse_threshold_rule("sensitivity@0.8"),
                            .reject_accuracy = 0.8};
  const std::vector<FoldDecisions> folds = cross_fit(problem.result, problem.data, rules);
  REQUIRE(folds.size() == 3);
  std::vector<std::vector<double>> thresholds;
  for (const FoldDecisions& fold : folds) {
    Problem others = without_ties();
    for (size_t i = 0; i < kImages; ++i)
      if (problem.data.samples[i].fold == fold.fold) others.result.counted[i] = 0;
    const Decisions expected = decide(others.result, others.data, rules);
    CHECK(fold.decisions.temperature == expected.temperature);
    CHECK(fold.decisions.thresholds == expected.thresholds);
    CHECK(fold.decisions.reject == expected.reject);
    thresholds.push_back(label_thresholds(fold.decisions, problem.data.classes));
  }
  CHECK(thresholds[0] != thresholds[1]);

  // The images of a fold have no part in its own decisions, and they have one in the others'.
  Problem changed = problem;
  for (size_t i = 0; i < kImages; ++i)
    for (size_t c = 0; c < kLabels; ++c)
      if (problem.data.samples[i].fold == 2) changed.result.logits[i * kLabels + c] *= -1.5f;
  const std::vector<FoldDecisions> after = cross_fit(changed.result, changed.data, rules);
  CHECK(after[1].decisions.temperature == folds[1].decisions.temperature);
  CHECK(after[1].decisions.thresholds == folds[1].decisions.thresholds);
  CHECK(after[0].decisions.thresholds != folds[0].decisions.thresholds);

  const LabelScore scored = score_labels(
      problem.result, problem.data, {.resamples = 20, .cross_fitted = folds, .by = {problem.sex}});
  const auto fold_of = [&](size_t image) { return size_t(problem.data.samples[image].fold) - 1; };
  double wrong = 0, known = 0, divided = 0;
  std::vector<double> found(kLabels), alarms(kLabels);
  for (size_t at = 0; at < kImages * kLabels; ++at) {
    const size_t image = at / kLabels, c = at % kLabels;
    const Presence presence = problem.data.samples[image].labels[c];
    if (!problem.result.counted[image] || presence == Presence::missing) continue;
    const bool y = presence == Presence::present;
    const bool called = sigmoid(problem.result.logits[at]) >= thresholds[fold_of(image)][c];
    ++known;
    wrong += called != y;
    (y ? found : alarms)[c] += called;
    const double z = problem.result.logits[at] / *folds[fold_of(image)].decisions.temperature;
    divided -= std::log(sigmoid(y ? z : -z));
  }
  const json m = to_json(scored, problem.data.classes);
  CHECK(std::abs(m["hamming_loss"].get<double>() - wrong / known) <= 1e-9);
  CHECK(std::abs(m["calibrated"]["loss"].get<double>() - divided / known) <= 1e-6);  // floats
  for (size_t c = 0; c < kLabels; ++c) {
    CHECK(m["labels"][c]["true_positives"] == found[c]);
    CHECK(m["labels"][c]["false_positives"] == alarms[c]);
    CHECK(m["labels"][c]["threshold"].is_null());
    CHECK(m["cross_fitted"][1]["thresholds"][problem.data.classes[c]] == thresholds[1][c]);
  }
  const Left kept = left(
      problem, [](size_t) { return 1.; },
      [&](size_t image, size_t c) { return thresholds[fold_of(image)][c]; },
      [&](size_t image) { return *folds[fold_of(image)].decisions.reject->as_given; });
  CHECK(std::abs(m["reject_threshold"]["coverage"].get<double>() - kept.answered / known) <= 1e-9);
  CHECK(std::abs(m["reject_threshold"]["accuracy"].get<double>() - kept.right / kept.answered) <=
        1e-9);
  CHECK(m["reject_threshold"]["threshold"].is_null());
  CHECK(m["calibrated"]["temperature"].is_null());
  CHECK(m["thresholds"]["rule"] == "sensitivity@0.8");
  CHECK(m["by"]["sex"].size() == 4);
  const std::string text = table(scored, problem.data.classes);
  CHECK(mentions(text, "thresholds of the other folds (sensitivity@0.8)"));
  CHECK(mentions(text, " of the other folds: calibration error "));
  CHECK(mentions(text, "right on the other folds:"));
}
