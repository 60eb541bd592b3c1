#include "tools/score/score.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "engine/rng.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

// Two classes, one name with a comma. Three right, one wrong, and one that could not be read.
struct ScoreFixture {
  TemporaryFolder folder;
  Dataset data{.classes = {"cat", "dog, \"big\""},
               .samples = {{"a.jpg", 0}, {"b,c.jpg", 1}, {"d.jpg", 0}, {"e.jpg", 1}, {"f.jpg", 1}}};
  EvaluationResult result{{2, 0, 0, 2, 0, 1, -1, 3, 0, 0}, {1, 1, 1, 1, 0}};
};

}  // namespace

TEST_CASE_FIXTURE(ScoreFixture, "an evaluation's files have a row per image that was read") {
  write_score(folder.path() / "new", result, data);
  const auto file = [&](const char* name) { return read(folder.path() / "new" / name); };
  CHECK(
      file("predictions.csv") ==
      "path,label,prediction,p_prediction,p_label,loss,p:cat,\"p:dog, \"\"big\"\"\"\n"
      "a.jpg,cat,cat,0.880797078,0.880797078,0.126928011,0.880797078,0.119202922\n"
      "\"b,c.jpg\",\"dog, \"\"big\"\"\",\"dog, \"\"big\"\"\",0.880797078,0.880797078,0.126928011,"
      "0.119202922,0.880797078\n"
      "d.jpg,cat,\"dog, \"\"big\"\"\",0.731058579,0.268941421,1.31326169,0.268941421,0.731058579\n"
      "e.jpg,\"dog, \"\"big\"\"\",\"dog, \"\"big\"\"\",0.98201379,0.98201379,0.0181499279,"
      "0.01798621,0.98201379\n");
  CHECK(file("confusion_matrix.csv") ==
        "label,cat,\"dog, \"\"big\"\"\"\n"
        "cat,1,1\n"
        "\"dog, \"\"big\"\"\",0,2\n");
  CHECK(file("roc.csv") ==
        "class,threshold,false_positive_rate,true_positive_rate\n"
        "cat,inf,0,0\ncat,0.880797,0,0.5\ncat,0.268941,0,1\ncat,0.0179862,1,1\n"
        "\"dog, \"\"big\"\"\",inf,0,0\n\"dog, \"\"big\"\"\",0.982014,0,0.5\n"
        "\"dog, \"\"big\"\"\",0.880797,0,1\n\"dog, \"\"big\"\"\",0.119203,1,1\n"
        "(micro),inf,0,0\n(micro),0.982014,0,0.25\n(micro),0.880797,0,0.75\n"
        "(micro),0.731059,0.25,0.75\n(micro),0.268941,0.25,1\n(micro),0.119203,0.75,1\n(micro),0."
        "0179862,1,1\n");
  CHECK(
      file("pr.csv").starts_with("class,threshold,precision,recall\n"
                                 "cat,inf,1,0\ncat,0.880797,1,0.5\ncat,0.268941,1,1\n"
                                 "cat,0.119203,0.666667,1\ncat,0.0179862,0.5,1\n"
                                 "\"dog, \"\"big\"\"\",inf,1,0\n"));
  const json m = parse_json<json>(file("metrics.json"))["val"];
  CHECK(m["samples"] == 4);
  CHECK(m["top1"] == 0.75);
  CHECK(m["classes"][1]["name"] == "dog, \"big\"");
  CHECK(m["classes"][0]["recall"] == 0.5);
  CHECK(m["classes"][0]["auc"] == 1);
  CHECK(m["calibration"].size() == kCalibrationBins);
  CHECK(m["intervals"]["resamples"] == 1000);
  CHECK(m["intervals"]["top1"][0] < 0.75);
  CHECK(m["intervals"]["over"] == "images");
  CHECK_FALSE(m["intervals"].contains("groups"));
  CHECK(m["classes"][0]["average_precision"] == 1);
  CHECK(m["classes"][0]["sensitivity_at_specificity"][0] ==
        json{{"specificity", 0.9}, {"sensitivity", 1.}, {"threshold", 0.2689414213699951}});
  CHECK(m["classes"][0]["intervals"]["recall"][0] == doctest::Approx(0.0945).epsilon(0.001));
  CHECK(m["reject"][0] ==
        json{{"threshold", 0.7310585786300049}, {"coverage", 1.}, {"accuracy", 0.75}});
  CHECK(m["reject"].back()["accuracy"] == 1);
}

TEST_CASE_FIXTURE(ScoreFixture, "the parts of a run stand side by side") {
  write_score(folder.path(), result, data, {.part = "val", .resamples = 0});
  result.logits[4] = 5;  // now right
  write_score(folder.path(), result, data,
              {.part = "test", .prefix = "test_", .resamples = 0, .probabilities = true});
  const json all = parse_json<json>(read(folder.path() / "metrics.json"));
  CHECK(all["val"]["top1"] == 0.75);
  CHECK(all["test"]["top1"] == 1);
  CHECK_FALSE(all["test"].contains("intervals"));
  CHECK(read(folder.path() / "test_predictions.csv")
            .starts_with(
                "path,label,prediction,p_prediction,p_label,loss,p:cat,\"p:dog, \"\"big\"\"\"\n"
                "a.jpg,cat,cat,0.880797078,0.880797078,0.126928011,0.880797078,0.119202922\n"));
  CHECK(read(folder.path() / "predictions.csv") != read(folder.path() / "test_predictions.csv"));
}

TEST_CASE_FIXTURE(ScoreFixture, "the table has totals with intervals and a line per class") {
  const Score scored = score(result, data, {.resamples = 100});
  const std::string text = table(scored, data.classes);
  CHECK(text.starts_with("4 images, 95% intervals in brackets\n"));
  CHECK(mentions(text, fmt::format("  {:<20} {:>7}  [", "top-1", "0.75")));
  CHECK(mentions(text, fmt::format("  {:<10}{:>8}{:>16}{:>16}{:>16}\n", "cat", 2, "0.50 0.09-0.91",
                                   "1.00 0.21-1.00", "1.00 1.00-1.00")));
  const std::string plain = table(score(result, data, {.resamples = 0}), data.classes);
  CHECK(plain.starts_with("4 images\n"));
  CHECK(mentions(plain, fmt::format("  {:<16}{:>8}{:>11}{:>8}{:>13}{:>6}{:>6}\n", "cat", 2, "1.00",
                                    "0.50", "1.00", "0.67", "1.00")));
}

TEST_CASE("35 classes stand in 80 columns; what has no sample is -, and null in JSON") {
  Dataset data;
  EvaluationResult result;
  constexpr int kClasses = 35, kSamples = 3000;
  for (int c = 0; c < kClasses; ++c)
    data.classes.push_back(fmt::format("Naevus – mélanocytaire composé atypique {}", c));
  for (int i = 0; i < kSamples; ++i) {
    data.samples.push_back(
        {fmt::format("{}.jpg", i), i % (kClasses - 1), "p" + std::to_string(i / 4)});
    result.counted.push_back(1);
    for (int c = 0; c < kClasses; ++c)
      result.logits.push_back(c == kClasses - 1 ? -9.f
                                                : float((i * 31 + c * 17) % 97) / 40 +
                                                      (c == i % (kClasses - 1) ? 1.5f : 0));
  }
  const Score scored = score(result, data, {.resamples = 20});
  const std::string text = table(scored, data.classes);
  CHECK(text.starts_with("3000 images of 750 groups, 95% intervals in brackets, by groups\n"));
  std::istringstream lines(text);
  int counted = 0, without_images = 0;
  for (std::string line; std::getline(lines, line); ++counted) {
    size_t characters = 0;
    for (const char byte : line) characters += (byte & 0xc0) != 0x80;
    CHECK_MESSAGE(characters <= 80, line);
    without_images += line.ends_with("  -") && mentions(line, "  0  ");
  }
  CHECK(counted > kClasses);
  CHECK(without_images == 1);
  const json m = to_json(scored, data.classes);
  const json& absent = m["classes"][kClasses - 1];
  for (const char* figure : {"recall", "precision", "f1", "auc", "average_precision"})
    CHECK(absent[figure].is_null());
  for (const char* figure : {"recall", "precision", "auc"})
    CHECK(absent["intervals"][figure].is_null());
  CHECK(absent["sensitivity_at_specificity"][0]["sensitivity"].is_null());
  CHECK(m["intervals"]["over"] == "groups");
  CHECK(m["intervals"]["groups"] == 750);

  const EvaluationResult none{std::vector<float>(result.logits.size()),
                              std::vector<uint8_t>(result.counted.size())};
  const Score nothing = score(none, data, {});
  CHECK(mentions(table(nothing, data.classes), fmt::format("  {:<20} {:>7}\n", "top-1", "-")));
  CHECK(to_json(nothing, data.classes)["top1"].is_null());
}

TEST_CASE_FIXTURE(ScoreFixture, "groups: in predictions.csv, and what intervals are drawn by") {
  data.samples[0].group = "x,1";
  data.samples[1].group = "x,1";
  CHECK(group_numbers(result, data) == std::vector<uint32_t>{0, 0, 1, 2});
  write_score(folder.path(), result, data, {.resamples = 50});
  CHECK(
      read(folder.path() / "predictions.csv")
          .starts_with(
              "path,label,prediction,p_prediction,p_label,loss,group,p:cat,\"p:dog, \"\"big\"\"\"\n"
              "a.jpg,cat,cat,0.880797078,0.880797078,0.126928011,\"x,1\",0.880797078,"));
  const json m = parse_json<json>(read(folder.path() / "metrics.json"))["val"];
  CHECK(m["intervals"]["over"] == "groups");
  CHECK(m["intervals"]["groups"] == 3);
}

TEST_CASE_FIXTURE(ScoreFixture,
                  "temperature and thresholds of validation are applied to what is scored") {
  const Decisions decisions{
      .temperature = 2,
      .thresholds = Thresholds{"youden", {{"cat", 0.25, 1, 1}, {data.classes[1]}}}};
  const Score given = score(result, data, {.resamples = 0, .decisions = decisions});
  const json m = to_json(given, data.classes);
  CHECK(m["temperature"] == 2);
  CHECK(m["loss"] == given.as_given->loss);
  CHECK(m["calibrated"]["loss"] != m["loss"]);
  CHECK(m["calibrated"]["calibration"].size() == kCalibrationBins);
  CHECK_FALSE(m.contains("uncalibrated"));
  CHECK(m["classes"][0]["threshold"] == 0.25);
  CHECK(m["classes"][1]["threshold"].is_null());
  CHECK(m["thresholds"]["rule"] == "youden");
  CHECK(m["thresholds"]["classes"]["cat"] == json{{"threshold", 0.25},
                                                  {"sensitivity", 1.},
                                                  {"specificity", 1.},
                                                  {"precision", 1.},
                                                  {"negative_predictive_value", 1.}});
  CHECK(m["thresholds"]["classes"][data.classes[1]]["sensitivity"].is_null());
  CHECK(mentions(table(given, data.classes), "temperature 2: calibration error "));
  CHECK(mentions(table(given, data.classes), "thresholds of validation by youden"));

  // All figures of logits divided by it; thresholds stay those of what the network gives.
  const Score divided = write_score(folder.path(), result, data,
                                    {.resamples = 0, .decisions = decisions, .calibrated = true});
  const json d = to_json(divided, data.classes);
  CHECK(d["loss"] == m["calibrated"]["loss"]);
  CHECK(d["uncalibrated"]["loss"] == m["loss"]);
  CHECK(d["top1"] == m["top1"]);
  CHECK(d["thresholds"] == m["thresholds"]);
  CHECK(read(folder.path() / "predictions.csv").find("a.jpg,cat,cat,0.731058579,") !=
        std::string::npos);
}

TEST_CASE("folds of one class: each is scored by what the images of the others decide") {
  constexpr size_t kSamples = 90, kClasses = 3;
  Rng rng({.seed = 5, .purpose = purpose("folds")});
  Dataset folds{.classes = {"a", "b", "c"}};
  EvaluationResult said;
  for (size_t i = 0; i < kSamples; ++i) {
    Sample sample{.path = std::to_string(i), .label = int(rng.below(kClasses))};
    sample.fold = 1 + int(i % 3);
    for (size_t c = 0; c < kClasses; ++c)
      said.logits.push_back(3 * rng.uniform() + (int(c) == sample.label ? 1.2f : 0.f));
    said.counted.push_back(i != 4);
    folds.samples.push_back(sample);
  }
  const DecisionRules rules{.reject_accuracy = 0.7};
  const std::vector<FoldDecisions> crossed = cross_fit(said, folds, rules);
  REQUIRE(crossed.size() == 3);
  for (const FoldDecisions& fold : crossed) {
    EvaluationResult others = said;
    for (size_t i = 0; i < kSamples; ++i)
      if (folds.samples[i].fold == fold.fold) others.counted[i] = 0;
    CHECK(fold.decisions.thresholds == decide(others, folds, rules).thresholds);
    REQUIRE(fold.decisions.temperature.has_value());
    REQUIRE(fold.decisions.reject->as_given.has_value());
  }
  const json m =
      to_json(score(said, folds, {.resamples = 0, .cross_fitted = crossed}), folds.classes);
  double loss = 0, counted = 0, answered = 0, right = 0;
  std::vector<double> found(kClasses), all(kClasses);
  for (size_t i = 0; i < kSamples; ++i) {
    if (!said.counted[i]) continue;
    const Decisions& d = crossed[size_t(folds.samples[i].fold) - 1].decisions;
    const int label = folds.samples[i].label;
    const auto softmax = [&](double temperature, int c) {
      double sum = 0;
      for (size_t k = 0; k < kClasses; ++k)
        sum += std::exp(said.logits[i * kClasses + k] / temperature);
      return std::exp(said.logits[i * kClasses + size_t(c)] / temperature) / sum;
    };
    ++counted;
    loss -= std::log(softmax(*d.temperature, label));
    double most = 0;
    int best = 0;
    for (int c = 0; c < int(kClasses); ++c)
      if (softmax(1, c) > most) most = softmax(1, c), best = c;
    if (most >= *d.reject->as_given - 1e-12) ++answered, right += best == label;
    ++all[size_t(label)];
    found[size_t(label)] +=
        softmax(1, label) >= *d.thresholds->classes[size_t(label)].threshold - 1e-12;
  }
  CHECK(m["calibrated"]["loss"].get<double>() == doctest::Approx(loss / counted).epsilon(1e-6));
  CHECK(std::abs(m["reject_threshold"]["coverage"].get<double>() - answered / counted) <= 1e-9);
  CHECK(std::abs(m["reject_threshold"]["accuracy"].get<double>() - right / answered) <= 1e-9);
  for (size_t c = 0; c < kClasses; ++c) {
    const json& of = m["thresholds"]["classes"][folds.classes[c]];
    CHECK(std::abs(of["sensitivity"].get<double>() - found[c] / all[c]) <= 1e-9);
    CHECK(of["threshold"].is_null());
  }
  CHECK(m["cross_fitted"][2]["temperature"] == *crossed[2].decisions.temperature);
  CHECK_FALSE(m.contains("temperature"));
}

TEST_CASE_FIXTURE(ScoreFixture, "tables by the values of a column have the images of each") {
  Column sex{.name = "sex", .values = {"m", "f", "f", "", "f"}};
  arrange(sex);
  CHECK(sex.order == std::vector<std::string>{"f", "m", ""});
  const Score scored = score(result, data, {.resamples = 30, .by = {sex}});
  REQUIRE(scored.by.size() == 1);
  REQUIRE(scored.by[0].rows.size() == 3);
  CHECK(scored.by[0].rows[0].samples == 2);  // the fifth does not count
  CHECK(scored.by[0].rows[0].top1 == 0.5);
  CHECK(scored.by[0].rows[2].value.empty());
  const json m = to_json(scored, data.classes);
  CHECK(m["by"]["sex"][0]["value"] == "f");
  CHECK(m["by"]["sex"][0]["intervals"]["top1"][0] == 0);
  CHECK(m["by"]["sex"][1]["auc_macro"].is_null());
  CHECK(mentions(table(scored, data.classes), "  (empty) "));
}
