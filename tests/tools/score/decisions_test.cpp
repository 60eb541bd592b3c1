// What validation decides, and where it is kept.
#include "tools/score/decisions.h"

#include <doctest/doctest.h>

#include <fstream>

#include "engine/error.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"
#include "tests/support.h"
#include "tools/score/columns.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("--threshold-rule is read, and written as it is read") {
  for (const char* text : {"youden", "sensitivity@0.9", "specificity@0.95"})
    CHECK(to_string(parse_threshold_rule(text)) == text);
  const auto mistake = [](const char* text) {
    return message_of([&] { parse_threshold_rule(text); }, Failure::usage);
  };
  for (const char* text : {"", "best", "sensitivity", "recall@0.9"})
    CHECK(mentions(mistake(text), "it is youden, sensitivity@S or specificity@S"));
  for (const char* text : {"sensitivity@0", "specificity@1", "sensitivity@x", "sensitivity@"})
    CHECK(mentions(mistake(text), "is no share above 0 and below 1"));
}

TEST_CASE("decisions go into a weight file, which stays sealed, and replace former ones") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "w.safetensors";
  TensorFile file;
  file.tensors["w"] = Tensor(DType::f32, {2});
  file.metadata["model"] = "m";
  write_sealed(path, file);
  // Three of four are right, with 4 between the logits.
  const std::vector<float> logits = {4, 0, 4, 0, 4, 0, 4, 0, 0, 1};
  const std::vector<int32_t> labels = {0, 0, 0, 1, 1};
  const std::vector<std::string> classes = {"a", "b", "c"};
  const Decisions decisions = decide(std::span(logits).first(8), std::span(labels).first(4),
                                     std::span(classes).first(2), {.reject_accuracy = 0.75});
  CHECK(*decisions.temperature == doctest::Approx(3.6409569).epsilon(1e-6));
  REQUIRE(decisions.thresholds->classes.size() == 2);
  CHECK(decisions.thresholds->classes[1].name == "b");
  CHECK(*decisions.reject->as_given == doctest::Approx(1 / (1 + std::exp(-4.))).epsilon(1e-9));
  CHECK(*decisions.reject->calibrated == doctest::Approx(0.75).epsilon(1e-6));
  for (int again = 0; again < 2; ++again) {
    store_decisions(path, decisions);
    TensorFile read = read_safetensors(path);
    check_seal(read, path);
    CHECK(read.metadata.at("model") == "m");
    CHECK(decisions_of(read.metadata, path) == decisions);
  }
  store_decisions(path, {});
  const auto without = read_safetensors(path).metadata;
  CHECK(decisions_of(without, path) == Decisions{});

  // A class without a validation image has no threshold.
  const std::vector<float> three = {4, 0, 1, 0, 4, 1};
  const Decisions absent = decide(three, std::vector<int32_t>{0, 1}, classes, {});
  CHECK(absent.thresholds->classes[0].threshold.has_value());
  CHECK_FALSE(absent.thresholds->classes[2].threshold.has_value());
  CHECK_FALSE(absent.temperature.has_value());  // all is right
  CHECK(absent.reject->as_given.has_value());
  CHECK_FALSE(absent.reject->calibrated.has_value());

  // At no probability are more than three of four right.
  const Decisions unsure = decide(std::span(logits).first(8), std::span(labels).first(4),
                                  std::span(classes).first(2), {.reject_accuracy = 0.76});
  CHECK_FALSE(unsure.reject->as_given.has_value());
}

TEST_CASE("of several labels each known one is an answer, and the decisions go with the weights") {
  using P = Presence;
  // Of "a" the logits 2 and 1 are present, 0 and −0.5 absent, one is not known; of "b" all are
  // present. The second absent one of "c" is above its present one.
  const CountedLabels counted{
      {2, 3, 0, 1, 1.75f, 1, 0, 1, 2, -0.5f, 1.5f, -3, 9, 1, 9},
      {P::present, P::present, P::present, P::present, P::present, P::absent, P::absent, P::present,
       P::present, P::absent, P::present, P::absent, P::missing, P::present, P::missing}};
  const std::vector<std::string> names = {"a", "b", "c"};
  const Decisions decisions = decide(counted, names, {.reject_accuracy = 1});
  const auto sigma = [](double z) { return 1 / (1 + std::exp(-z)); };
  REQUIRE(decisions.thresholds->classes.size() == 3);
  CHECK(*decisions.thresholds->classes[0].threshold == doctest::Approx(sigma(1)).epsilon(1e-12));
  CHECK(decisions.thresholds->classes[0].sensitivity == 1);
  CHECK_FALSE(decisions.thresholds->classes[1].threshold.has_value());  // all have it
  CHECK(*decisions.thresholds->classes[2].threshold == doctest::Approx(sigma(2)).epsilon(1e-12));
  CHECK(label_thresholds(decisions, names)[1] == 0.5);
  // At these thresholds one is wrong: the logit 0 of "c", which is 2 from its threshold. The surer
  // ones, by 3 and 5, are right.
  CHECK(*decisions.reject->as_given == doctest::Approx(sigma(3)).epsilon(1e-12));
  CHECK(*decisions.reject->calibrated ==
        doctest::Approx(sigma(3 / *decisions.temperature)).epsilon(1e-6));
  CHECK(decide(counted, names, {.reject_accuracy = 0.9}).reject->as_given == 0.5);

  const TemporaryFolder folder;
  const auto path = folder.path() / "w.safetensors";
  TensorFile file;
  file.tensors["w"] = Tensor(DType::f32, {2});
  write_sealed(path, file);
  store_decisions(path, decisions);
  const auto metadata = read_safetensors(path).metadata;
  CHECK(decisions_of(metadata, path) == decisions);

  const Decisions none = decide(CountedLabels{}, names, {});
  CHECK_FALSE(none.temperature.has_value());
  CHECK_FALSE(none.reject->as_given.has_value());
  CHECK(label_thresholds(none, names) == std::vector<double>{0.5, 0.5, 0.5});
}

TEST_CASE("columns of labels: order of values, intervals of many numbers, and mistakes") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "labels.csv";
  std::string text = "path,label,\" sex \",age,id\n";
  Dataset data;
  for (int i = 0; i < 60; ++i) {
    text += fmt::format("img{0},a,{1},{2},x{0}\n", i, i % 3 == 0 ? "f" : "m ",
                        i == 7 ? "" : std::to_string(20 + i));
    data.samples.push_back({(folder.path() / fmt::format("img{}.jpg", i)).string()});
  }
  std::ofstream(file) << text;
  data.samples.push_back({(folder.path() / "unknown.jpg").string()});
  ImageSetOptions options;
  options.labels = file;
  options.image_suffix = ".jpg";
  const std::vector<Column> columns = read_columns(options, "sex, age", data);
  REQUIRE(columns.size() == 2);
  CHECK(columns[0].order == std::vector<std::string>{"f", "m", ""});
  CHECK(columns[0].values[0] == "f");
  CHECK(columns[0].values[1] == "m");
  CHECK(columns[0].values[60].empty());
  CHECK(columns[1].order ==
        std::vector<std::string>{"[20, 35.5)", "[35.5, 50)", "[50, 64.5)", "[64.5, 79]", ""});
  CHECK(columns[1].values[0] == "[20, 35.5)");
  CHECK(columns[1].values[30] == "[50, 64.5)");
  CHECK(columns[1].values[59] == "[64.5, 79]");
  CHECK(columns[1].values[7].empty());
  CHECK(read_columns(options, "", data).empty());
  Column few{.name = "stage", .values = {"10", "9", "9", "2"}};
  arrange(few);
  CHECK(few.order == std::vector<std::string>{"2", "9", "10"});

  const auto mistake = [&](const char* names) {
    return message_of([&] { read_columns(options, names, data); }, Failure::usage);
  };
  CHECK(mentions(mistake("site"), "has no column site; there are path,"));
  CHECK(mentions(mistake("id"), "--by id: the column has 60 different values, more than 50"));
  CHECK(mentions(mistake("sex,sex"), "each once"));
  CHECK(mentions(mistake("sex,"), "each once"));
  options.image_suffix = ".png";
  CHECK(mentions(message_of([&] { read_columns(options, "sex", data); }, Failure::data),
                 "names none of the 61 images, as "));
  options.labels.clear();
  CHECK(mentions(mistake("sex"), "columns are read from --labels"));
}
