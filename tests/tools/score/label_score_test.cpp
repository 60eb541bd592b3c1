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
  const LabelScore scored = score_labels(problem.result, problem.data, {},
                                         {.resamples = 40, .seed = 3, .by = {problem.sex}});
  REQUIRE(scored.by.size() == 1);
  CHECK(scored.by[0].column == "sex");
  REQUIRE(scored.by[0].rows.size() == 4);  // f, m, x, (empty)
  const std::vector<double> thresholds = threshold_values(scored.thresholds, problem.data.classes);
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
      CHECK(m.labels[c].threshold == thresholds[c]);
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
      score_labels(alone.result, alone.data, scored.thresholds, {.resamples = 40, .seed = 3});
  CHECK(to_json(men, alone.data.classes)["labels"] ==
        to_json(scored, problem.data.classes)["by"]["sex"][1]["labels"]);
}

TEST_CASE("several labels: figures that a small group has not are said, and are not 0") {
  const Problem problem;
  const LabelScore scored =
      score_labels(problem.result, problem.data, {}, {.resamples = 10, .by = {problem.sex}});
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
