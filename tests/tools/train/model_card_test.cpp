#include "tools/train/model_card.h"

#include <doctest/doctest.h>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using Json = nlohmann::ordered_json;

namespace {

TrainingData small_data() {
  TrainingData data;
  data.train.classes = {"a|b", "rare", "gone"};
  data.train.samples = {{"1.png", 0, "P1"}, {"2.png", 0, "P1"}, {"3.png", 1, "P2"}};
  data.validation = data.train;
  data.validation.samples = {{"4.png", 0, ""}};
  return data;
}

CardFacts some_facts() {
  const Json classes = {{{"name", "a|b"},
                         {"support", 900},
                         {"predicted", 940},
                         {"recall", 0.987},
                         {"precision", 0.9},
                         {"specificity", 0.5},
                         {"auc", 0.97},
                         {"intervals", {{"recall", {0.97, 0.99}}}}},
                        {{"name", "rare"},
                         {"support", 44},
                         {"predicted", 4},
                         {"recall", 0.41},
                         {"precision", 0.5},
                         {"specificity", 0.99},
                         {"auc", 0.8},
                         {"intervals", {{"recall", {0.27, 0.56}}}}},
                        {{"name", "gone"},
                         {"support", 0},
                         {"predicted", 0},
                         {"recall", 0.0},
                         {"precision", 0.0},
                         {"specificity", 1.0},
                         {"auc", nullptr}}};
  CardFacts facts;
  facts.name = "run_1";
  facts.parts = describe_parts(small_data());
  facts.arguments = {{"model", "resnet18"}, {"data", "/images"}, {"lr", 0.001}, {"weights", ""}};
  facts.environment = {
      {"engine", "0.1.0"},
      {"git", "abc123"},
      {"devices", {{{"name", "GPU A"}, {"memory_gib", 80.5}}, {{"name", "GPU A"}}}},
      {"started", "2025-03-01T12:00:00.000Z"}};
  facts.metrics["val"] = {{"samples", 944},
                          {"top1", 0.9612},
                          {"calibration_error", 0.11},
                          {"macro", {{"f1", 0.7}}},
                          {"intervals", {{"level", 0.95}, {"top1", {0.95, 0.97}}}},
                          {"classes", classes}};
  facts.preprocess = "crop 224";
  facts.command = "cd /x\nengine train";
  facts.weights_digest = std::string(64, 'a');
  facts.names_digest = std::string(64, 'b');
  return facts;
}

}  // namespace

TEST_CASE("the parts of a data set: images, groups and classes") {
  const Json parts = describe_parts(small_data());
  REQUIRE(parts.size() == 2);
  CHECK(parts[0]["images"] == 3);
  CHECK(parts[0]["groups"] == 2);
  CHECK(parts[0]["classes"] == Json{{"a|b", 2}, {"rare", 1}, {"gone", 0}});
  CHECK(parts[1]["groups"] == 0);
}

TEST_CASE("a model card has the sections of Mitchell et al., and what the facts say") {
  const std::string card = model_card(some_facts());
  size_t at = 0;
  for (const char* section :
       {"# Model card: run\\_1", "## Model details", "## Intended use", "## Factors", "## Metrics",
        "## Evaluation data", "## Training data", "## Quantitative analyses",
        "## Ethical considerations", "## Caveats and recommendations"}) {
    CHECK_MESSAGE(card.find(section, at) != std::string::npos, section);
    at = card.find(section, at);
  }
  CHECK(mentions(card, "SHA-256 `" + std::string(64, 'a')));
  CHECK(mentions(card, "commit abc123"));
  CHECK(mentions(card, "2025-03-01 on 2 x GPU A"));
  CHECK(mentions(card, "| a\\|b | 2 | 1 |"));
  CHECK(mentions(card, "| top-1 accuracy | 0.96 [0.95–0.97] |"));
  CHECK(mentions(card, "| lr | 0.001 |"));
  CHECK_FALSE(mentions(card, "| weights |"));
  CHECK(mentions(card, "| gone | 0 | – | – | – | – |"));
}

TEST_CASE("a model card names its limits, and only those that there are") {
  CardFacts facts = some_facts();
  std::string card = model_card(facts);
  CHECK(mentions(card, "- It was not tested on images that had no part in choosing the weights."));
  CHECK(mentions(card, "- gone: no validation image, so nothing is known of it."));
  CHECK(mentions(card, "- rare: 44 images, recall 0.41 [0.27–0.56]: more are missed than found."));
  CHECK(mentions(card, "- The probabilities are off by 0.11 on average"));
  CHECK_FALSE(mentions(card, "Several parts share"));
  CHECK_FALSE(mentions(card, "No groups are known"));

  facts.metrics["test"] = facts.metrics["val"];
  facts.metrics["test"]["calibration_error"] = 0.01;
  facts.shared_images = true;
  for (Json& part : facts.parts) part["groups"] = 0;
  card = model_card(facts);
  CHECK(mentions(card, "944 test images. They had no part in training"));
  CHECK_FALSE(mentions(card, "choosing the weights"));
  CHECK_FALSE(mentions(card, "The probabilities are off"));
  CHECK(mentions(card, "Several parts share"));
  CHECK(mentions(card, "No groups are known"));
  CHECK(mentions(model_card({}), "Nothing was evaluated."));
}

TEST_CASE("a model card tells what was chosen on validation images, where anything was") {
  CardFacts facts = some_facts();
  for (const char* words : {"called present", "Temperature scaling", "withheld"})
    CHECK_FALSE(mentions(model_card(facts), words));
  Json& score = facts.metrics["val"];
  score["thresholds"] = {{"rule", "sensitivity@0.9"}};
  score["temperature"] = 1.4321;
  score["calibrated"] = {{"calibration_error", 0.034}};
  score["reject_threshold"] = {
      {"validation_accuracy", 0.95}, {"threshold", 0.8}, {"coverage", 0.75}, {"accuracy", 0.966}};
  const std::string card = model_card(facts);
  CHECK(mentions(card,
                 "From which probability on a class is called present was chosen on validation "
                 "images, by the rule sensitivity@0.9."));
  CHECK(mentions(card, "with T = 1.43 takes the expected calibration error from 0.11 to 0.03."));
  CHECK(mentions(card, "of those that are given 0.95 are right on validation images."));
  CHECK(mentions(card, "So 0.75 of these validation images are answered, 0.97 of them right."));
  score["reject_threshold"]["coverage"] = 0;
  score["reject_threshold"]["accuracy"] = nullptr;
  CHECK(mentions(model_card(facts), "So none of these validation images are answered."));
}

TEST_CASE("a model card of several labels tells of labels, and of columns by the macro AUC") {
  CardFacts facts = some_facts();
  facts.metrics["val"] = {
      {"task", "multilabel"},
      {"samples", 944},
      {"subset_accuracy", 0.61},
      {"auc_macro", 0.91},
      {"by",
       {{"sex",
         {{{"value", "f"},
           {"samples", 900},
           {"auc_macro", 0.92},
           {"intervals", {{"auc_macro", {0.9, 0.94}}}}},
          {{"value", "m"}, {"samples", 44}, {"auc_macro", nullptr}}}}}},
      {"labels",
       {{{"name", "ring"},
         {"positives", 40},
         {"negatives", 900},
         {"sensitivity", 0.8},
         {"specificity", 0.9},
         {"auc", 0.91},
         {"average_precision", 0.7}},
        {{"name", "star"}, {"positives", 0}, {"negatives", 944}, {"specificity", 1.0}}}}};
  const std::string card = model_card(facts);
  CHECK(mentions(card, "labels, of which an image may have any number"));
  CHECK_FALSE(mentions(card, "It always names one of them"));
  CHECK(mentions(card, "| all known labels right | 0.61 |"));
  CHECK(mentions(card, "| sex | images | macro AUC |"));
  CHECK(mentions(card, "| f | 900 | 0.92 [0.90–0.94] |\n| m | 44 | – |"));
  CHECK(mentions(card, "| ring | 40 | 900 | 0.80 | 0.90 | 0.91 | 0.70 |"));
  CHECK(mentions(card, "| star | 0 | 944 | – | 1.00 | – | – |"));
  CHECK(mentions(card, "- star: no validation image has it, so nothing is known of it."));
}
