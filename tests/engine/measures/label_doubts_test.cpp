#include "engine/measures/label_doubts.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/rng.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("label doubts: thresholds, margins and the confident joint by hand") {
  // Class 0 has the probabilities 0.9 and 0.5 as labels, class 1 has 0.8 and 0.2; nobody has 2.
  const std::vector<double> p = {0.9, 0.1, 0.0,  //
                                 0.5, 0.3, 0.2,  //
                                 0.1, 0.8, 0.1,  //
                                 0.7, 0.2, 0.1};
  const std::vector<int32_t> labels = {0, 0, 1, 1};
  const auto thresholds = confident_thresholds(p, labels, 3);
  CHECK(*thresholds[0] == doctest::Approx(0.7));
  CHECK(*thresholds[1] == doctest::Approx(0.5));
  CHECK_FALSE(thresholds[2]);

  const auto doubts = rank_label_doubts(p, labels, 3, DoubtScore::normalized_margin);
  REQUIRE(doubts.size() == 4);
  CHECK(doubts[0].sample == 3);
  CHECK(doubts[0].suggested == 0);
  CHECK(doubts[0].score == doctest::Approx(-0.5));
  CHECK(doubts[0].issue);  // 0.7 reaches the threshold of class 0, 0.2 not that of class 1
  CHECK(doubts[1].sample == 1);
  CHECK(doubts[1].suggested == 1);
  CHECK(doubts[1].score == doctest::Approx(0.2));
  CHECK_FALSE(doubts[1].issue);  // no class reaches its threshold
  CHECK(doubts[2].sample == 2);
  CHECK(doubts[2].suggested == 0);  // of equal ones the first
  CHECK(doubts[3].sample == 0);

  const auto by_self = rank_label_doubts(p, labels, 3, DoubtScore::self_confidence);
  CHECK(by_self[1].sample == 1);
  CHECK(by_self[1].score == 0.5);
  const std::vector<double> bad = {std::nan(""), 1};
  const std::vector<int32_t> one = {0};
  CHECK(mentions(message_of([&] { rank_label_doubts(bad, one, 2, DoubtScore::normalized_margin); },
                            Failure::diverged),
                 "a probability is not finite"));
}

TEST_CASE("label doubts: planted wrong labels come first, by both scores") {
  // Out-of-fold probabilities as those of a model that takes one image in fifty for another class,
  // of classes that are not equally frequent; every twentieth label is another one. (A model that
  // errs as often as a tenth fills the first tenth with its own errors.)
  constexpr int kClasses = 5, kSamples = 4000;
  Rng rng({.seed = 1, .purpose = purpose("planted")});
  std::vector<double> p;
  std::vector<int32_t> labels;
  std::vector<bool> planted;
  for (int i = 0; i < kSamples; ++i) {
    const auto truth = static_cast<int32_t>(std::min(rng.below(kClasses), rng.below(kClasses)));
    const int seen = rng.chance(0.975f) ? truth : static_cast<int>(rng.below(kClasses));
    std::vector<double> row;
    double sum = 0;
    for (int c = 0; c < kClasses; ++c)
      sum += row.emplace_back(std::exp(1.5 * rng.normal() + (c == seen ? 5 : 0)));
    for (const double value : row) p.push_back(value / sum);
    planted.push_back(rng.chance(0.05f));
    labels.push_back(planted.back()
                         ? (truth + 1 + static_cast<int32_t>(rng.below(kClasses - 1))) % kClasses
                         : truth);
  }
  const auto all = std::ranges::count(planted, true);
  REQUIRE(all > 150);
  for (const DoubtScore score : {DoubtScore::normalized_margin, DoubtScore::self_confidence}) {
    const auto doubts = rank_label_doubts(p, labels, kClasses, score);
    int64_t found = 0, issues = 0;
    for (int i = 0; i < kSamples / 10; ++i) found += planted[size_t(doubts[size_t(i)].sample)];
    CHECK(double(found) >= 0.9 * double(all));
    for (const LabelDoubt& doubt : doubts) issues += doubt.issue && planted[size_t(doubt.sample)];
    CHECK(double(issues) >= 0.8 * double(all));
  }
}

TEST_CASE("doubts of several labels: each is a problem of its own, missing ones are left out") {
  constexpr int kImages = 60, kLabels = 3;
  Rng rng({.seed = 7, .purpose = purpose("entries")});
  std::vector<double> p;
  std::vector<Presence> presence;
  for (int i = 0; i < kImages * kLabels; ++i) {
    p.push_back(rng.uniform());
    presence.push_back(rng.chance(0.2f)              ? Presence::missing
                       : rng.chance(float(p.back())) ? Presence::present
                                                     : Presence::absent);
  }
  const auto doubts = rank_entry_doubts(p, presence, kLabels, DoubtScore::normalized_margin);
  int64_t known = 0;
  for (const Presence of : presence) known += of != Presence::missing;
  REQUIRE(std::ssize(doubts) == known);
  for (size_t k = 0; k < doubts.size(); ++k) {
    const EntryDoubt& doubt = doubts[k];
    const auto at = size_t(doubt.sample) * kLabels + size_t(doubt.label);
    REQUIRE(presence[at] != Presence::missing);
    const bool present = presence[at] == Presence::present;
    CHECK(doubt.suggested == (present ? 0 : 1));
    CHECK(std::abs(doubt.p_label - (present ? p[at] : 1 - p[at])) < 1e-12);
    CHECK(std::abs(doubt.score - (2 * doubt.p_label - 1)) < 1e-12);
    if (k > 0) CHECK(doubts[k - 1].score <= doubt.score);
    // The mean probability of "present" where it is said, and of "absent".
    double sums[2] = {}, counts[2] = {};
    for (size_t i = size_t(doubt.label); i < p.size(); i += kLabels) {
      if (presence[i] == Presence::missing) continue;
      const bool yes = presence[i] == Presence::present;
      sums[yes] += yes ? p[i] : 1 - p[i];
      ++counts[yes];
    }
    const bool absent_is_sure = 1 - p[at] >= sums[0] / counts[0],
               present_is_sure = p[at] >= sums[1] / counts[1];
    const bool says_present = present_is_sure && (!absent_is_sure || p[at] > 1 - p[at]);
    CHECK(doubt.issue == ((absent_is_sure || present_is_sure) && says_present != present));
  }
}
