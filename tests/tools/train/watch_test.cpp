// What of the validation is watched.
#include "tools/train/watch.h"

#include <doctest/doctest.h>

#include <cmath>

#include "engine/error.h"
#include "tests/support.h"
#include "tools/train/early_stop.h"

using namespace engine;
using namespace engine::test;
using Figure = Watch::Figure;

TEST_CASE("--watch is read, and written as it is read") {
  for (const char* text : {"top1", "loss", "auc", "ap", "f1", "balanced", "sensitivity@0.95",
                           "df:recall", "a:b:recall", ":recall:recall"})
    CHECK(to_string(parse_watch(text)) == text);
  CHECK(parse_watch("sensitivity@0.95").specificity == 0.95);
  CHECK(parse_watch("sensitivity@.9").specificity == 0.9);
  CHECK(parse_watch("a:b:recall").class_name == "a:b");
  CHECK(parse_watch("auc:recall").figure == Figure::recall);
  const auto mistake = [](const char* text) {
    return message_of([&] { parse_watch(text); }, Failure::usage);
  };
  for (const char* text : {"", "accuracy", "AUC", ":recall", "df:precision", "sensitivity"})
    CHECK(
        mentions(mistake(text), fmt::format("--watch {}: it is top1, loss, auc, ap, f1, balanced, "
                                            "sensitivity@SPECIFICITY or CLASS:recall",
                                            text)));
  for (const char* value : {"0", "1", "-0.5", "1.5", "nan", "90%", "", "0.9x"})
    CHECK(mentions(mistake(fmt::format("sensitivity@{}", value).c_str()),
                   fmt::format("'{}' is no specificity above 0 and below 1", value)));
}

TEST_CASE("a class that is watched must be there and have validation images") {
  const Dataset data{.classes = {"a", "b", "c"}, .samples = {{"1", 0}, {"2", 1}}};
  const auto mistake = [&](const char* text) {
    return message_of([&] { check_watch(parse_watch(text), data); }, Failure::usage);
  };
  CHECK(mistake("d:recall") == "--watch d:recall: no class \"d\"; there are a, b, c");
  CHECK(mistake("c:recall") == "--watch c:recall: no validation image is of class \"c\"");
  check_watch(parse_watch("b:recall"), data);
  check_watch(parse_watch("auc"), data);
}

TEST_CASE("what is watched is what is measured, and nothing where that is not defined") {
  const std::vector<std::string> classes = {"a", "b", "c"};
  // Predictions: a, b, a, b; c never occurs.
  const std::vector<float> logits = {2, 0, 0, 0, 2, 0, 1, 0, 0, 1, 3, 0};
  const std::vector<int32_t> labels = {0, 1, 1, 0};
  Dataset data{.classes = classes};
  for (const int32_t label : labels) data.samples.push_back({"", label});
  const EvaluationResult result{logits, {1, 1, 1, 1}};
  const Metrics m = metrics_of(result, data);
  const auto figure = [&](const char* text) {
    return watched_figure(parse_watch(text), m, result, data);
  };
  CHECK(figure("top1") == 0.5);
  CHECK(figure("loss") == m.loss);
  CHECK(figure("auc") == m.auc_macro);
  CHECK(figure("ap") == m.average_precision_macro);
  CHECK(figure("f1") == m.macro.f1);
  CHECK(figure("balanced") == 0.5);
  CHECK(figure("b:recall") == 0.5);
  CHECK_FALSE(figure("c:recall").has_value());
  CHECK(figure("sensitivity@0.5") == mean_sensitivity_at(softmax_rows(logits, 3), labels, 3, 0.5));
  CHECK(merit(parse_watch("loss"), 0.25) == -0.25);
  CHECK(merit(parse_watch("auc"), 0.25) == 0.25);
  CHECK(std::isnan(merit(parse_watch("auc"), std::nullopt)));

  // All of one class: no area, no sensitivity at a specificity.
  for (Sample& sample : data.samples) sample.label = 0;
  for (const char* text : {"auc", "sensitivity@0.9"})
    CHECK_FALSE(
        watched_figure(parse_watch(text), metrics_of(result, data), result, data).has_value());
  const EvaluationResult none{logits, {0, 0, 0, 0}};
  CHECK_FALSE(watched_figure(parse_watch("top1"), metrics_of(none, data), none, data).has_value());
}

TEST_CASE("of several labels what is watched is a mean over labels, or one of them, at 0.5") {
  using P = Presence;
  Dataset data{.task = Task::labels, .classes = {"a", "b", "c", "d"}};
  // Of "c" nothing is absent, "d" is not known.
  const std::vector<std::vector<P>> presence = {{P::present, P::absent, P::present, P::missing},
                                                {P::present, P::present, P::present, P::missing},
                                                {P::absent, P::present, P::missing, P::missing},
                                                {P::absent, P::absent, P::present, P::missing}};
  for (const auto& row : presence) data.samples.push_back({.labels = row});
  const EvaluationResult result{{1, 2, 1, 0, -1, 3, -1, 0, 2, -2, 5, 0, -3, -1, 2, 0},
                                {1, 1, 1, 1}};
  const Metrics m = metrics_of(result, data);
  const auto figure = [&](const char* text) {
    check_watch(parse_watch(text), data);
    return *watched_figure(parse_watch(text), m, result, data);
  };
  const auto near = [](double value) { return doctest::Approx(value).epsilon(1e-12); };
  CHECK(figure("loss") == m.loss);
  CHECK(figure("top1") == m.top1);
  // Of "a": one of two present is found, one of two absent called; of "b" likewise; of "c" two of
  // three are found. F1 is 1/2, 1/2 and 4/5.
  CHECK(figure("a:recall") == 0.5);
  CHECK(figure("c:recall") == near(2. / 3));
  CHECK(figure("f1") == near((0.5 + 0.5 + 0.8) / 3));
  CHECK(figure("balanced") == 0.5);
  // By area "a" wins 2 of 4 pairs, "b" 2 of 4; average precision of "a" is (1/2 + 2/3) / 2, of "b"
  // (1 + 2/4) / 2, of "c" 1.
  CHECK(figure("auc") == 0.5);
  CHECK(figure("ap") == near((7. / 12 + 0.75 + 1) / 3));
  // With half of the absent below, "a" finds all of its present ones from −1 on, and "b" one.
  CHECK(figure("sensitivity@0.5") == 0.75);

  const auto mistake = [&](const char* text) {
    return message_of([&] { check_watch(parse_watch(text), data); }, Failure::usage);
  };
  CHECK(mistake("e:recall") == "--watch e:recall: no label \"e\"; there are a, b, c, d");
  CHECK(mistake("d:recall") == "--watch d:recall: no validation image has the label \"d\"");
}

TEST_CASE("without --watch top-1 is watched, by plateau the loss; with it all watch the same") {
  CHECK(EarlyStopConfig{}.watched().figure == Figure::top1);
  CHECK(EarlyStopConfig{}.plateau().figure == Figure::loss);
  CHECK(EarlyStopConfig{.watch = "auc"}.watched().figure == Figure::auc);
  CHECK(EarlyStopConfig{.watch = "auc"}.plateau().figure == Figure::auc);
}
