#include "tools/train/train_config.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>
#include <string_view>

#include "engine/error.h"
#include "models/models.h"
#include "tests/support.h"
#include "tools/train/finetune_recipe.h"
#include "tools/train/lr_find.h"
#include "tools/train/parameter_rules.h"
#include "tools/train/train_options.h"
#include "tools/train/training_plan.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("images grow in four stages of the run, by multiples of 32") {
  const SizeGrowth growth{128, 224};
  const std::vector<int> sizes = {128, 128, 128, 160, 160, 192, 192, 192, 224, 224};
  for (int epoch = 0; epoch < 10; ++epoch)
    CHECK(image_size(growth, 300, epoch, 10) == sizes[epoch]);
  CHECK(image_size(growth, 300, 12, 10) == 224);  // beyond the end
  CHECK(image_size({}, 300, 5, 10) == 300);
  CHECK(image_size({100, 100}, 300, 0, 10) == 100);
}

TEST_CASE("rates by layer: whole blocks, the head in full, frozen ones not at all") {
  const Graph graph = make_model("efficientnet_b0", {.classes = 3, .height = 32, .width = 32});
  const auto rule = parameter_rule(
      {.decay_all = false, .freeze = "features.0,features.1.", .layer_decay = 0.5}, graph, 0);
  std::map<std::string, ParameterRule> rules;
  for (const Parameter& p : graph.parameters)
    if (p.trained()) rules[p.name] = rule(p);
  CHECK(rules.at("classifier.1.weight").rate == 1);
  CHECK(rules.at("classifier.1.weight").decay);
  CHECK(!rules.at("classifier.1.bias").decay);
  CHECK(rules.at("features.8.0.weight").rate == 0.5);
  CHECK(rules.at("features.8.1.weight").rate == 0.5);
  CHECK(!rules.at("features.8.1.weight").decay);
  CHECK(rules.at("features.7.0.block.3.0.weight").rate == 0.25);
  CHECK(rules.at("features.7.0.block.0.0.weight").rate == 0.25);
  CHECK(rules.at("features.6.3.block.0.0.weight").rate == 0.125);
  // 16 blocks, head, stem
  CHECK(rules.at("features.2.0.block.0.0.weight").rate == std::pow(0.5, 16));
  CHECK(rules.at("features.0.0.weight").rate == 0);
  CHECK(rules.at("features.1.0.block.0.0.weight").rate == 0);
  CHECK_THROWS_AS(parameter_rule({.freeze = "featuers"}, graph, 0), Error);
  CHECK_THROWS_AS(parameter_rule({.freeze = "features,classifier"}, graph, 0), Error);

  const Graph residual = make_model("resnet18", {.classes = 3, .height = 32, .width = 32});
  const auto decayed = parameter_rule({.layer_decay = 0.5}, residual, 0);
  for (const Parameter& p : residual.parameters)
    if (p.trained()) rules[p.name] = decayed(p);
  CHECK(rules.at("fc.weight").rate == 1);
  CHECK(rules.at("layer4.1.conv1.weight").rate == 0.5);
  for (const char* name : {"layer4.0.bn2.bias", "layer4.0.downsample.0.weight"})
    CHECK(rules.at(name).rate == 0.25);
  for (const char* name : {"conv1.weight", "bn1.weight"})  // 8 blocks, head, stem
    CHECK(rules.at(name).rate == std::pow(0.5, 9));
}

TEST_CASE("the backbone has a rate of its own, and none while the head learns alone") {
  const Graph graph = make_model("efficientnet_b0", {.classes = 3, .height = 32, .width = 32});
  const RuleOptions options{.freeze = "features.0.", .backbone_factor = 0.1, .freeze_epochs = 2};
  for (const auto& [epoch, backbone] : {std::pair{0, 0.}, {1, 0.}, {2, 0.1}, {9, 0.1}}) {
    const auto rule = parameter_rule(options, graph, epoch);
    for (const Parameter& p : graph.parameters) {
      if (!p.trained()) continue;
      const bool frozen = p.name.starts_with("features.0.");
      CHECK_MESSAGE(rule(p).rate == (p.head ? 1 : frozen ? 0 : backbone), p.name);
    }
  }
}

namespace {

std::string value_of(const FinetuneRecipe& recipe, std::string_view name) {
  for (const ChosenFlag& flag : recipe.flags)
    if (flag.name == name) return flag.value.empty() ? "given" : flag.value;
  return "none";
}

}  // namespace

TEST_CASE("what engine finetune chooses follows from the images, the device and what is given") {
  FinetuneFacts facts{.model = "efficientnet_b3",
                      .images = 2128,
                      .validation = true,
                      .image_side = 600,
                      .model_side = 300,
                      .largest_batch = [](int) { return 500; }};
  FinetuneRecipe recipe = finetune_recipe(facts, {});
  CHECK(value_of(recipe, "--weights") == "imagenet");
  CHECK(value_of(recipe, "--split") == "none");
  CHECK(value_of(recipe, "--image-size") == "300");
  CHECK(value_of(recipe, "--batch-size") == "32");
  CHECK(value_of(recipe, "--warmup-epochs") == "1");
  CHECK(value_of(recipe, "--ema") == "0.9881");  // 670 updates
  for (const auto& [images, side] :
       {std::pair{0, "300"}, {224, "300"}, {200, "300"}, {199, "224"}, {100, "128"}, {28, "64"}}) {
    facts.image_side = images;
    CHECK_MESSAGE(value_of(finetune_recipe(facts, {}), "--image-size") == side, images);
  }
  facts.model_side = 28;  // of a model for digits
  facts.image_side = 10;
  CHECK(value_of(finetune_recipe(facts, {}), "--image-size") == "28");
  facts.model_side = 300;
  CHECK(value_of(recipe, "--epochs") == "10");
  CHECK(value_of(recipe, "--precision") == "none");
  facts.gpu = true;
  recipe = finetune_recipe(facts, {});
  CHECK(value_of(recipe, "--precision") == "bf16");
  CHECK(value_of(finetune_recipe(facts, {"precision"}), "--precision") == "none");
  for (const ChosenFlag& flag : recipe.flags) CHECK_MESSAGE(!flag.why.empty(), flag.name);

  facts.validation = false;  // nothing is split yet
  recipe = finetune_recipe(facts, {});
  CHECK(value_of(recipe, "--split") == "0.7/0.15/0.15");
  CHECK(value_of(recipe, "--stratify") == "given");
  facts.images = 200;
  recipe = finetune_recipe(facts, {});
  CHECK(value_of(recipe, "--split") == "0.8/0.2/0");
  CHECK(value_of(recipe, "--batch-size") == "8");  // 160 images to train with: 20 updates
  CHECK(value_of(recipe, "--epochs") == "30");
  facts.split = Shares{0.5, 0.5, 0};
  recipe = finetune_recipe(facts, {"split", "weights"});
  for (const char* given : {"--split", "--stratify", "--weights"})
    CHECK_MESSAGE(value_of(recipe, given) == "none", given);

  facts = {.images = 100'000, .validation = true, .model_side = 300, .published = false};
  facts.ranks = 2;
  facts.largest_batch = [](int) { return 13; };
  facts.speed = [](int side) { return 100. * 300 * 300 / side / side; };
  recipe = finetune_recipe(facts, {});
  CHECK(value_of(recipe, "--weights") == "none");
  CHECK(value_of(recipe, "--epochs") == "5");
  CHECK(value_of(recipe, "--batch-size") == "8");    // 16 of each rank do not fit
  CHECK(value_of(recipe, "--image-size") == "224");  // 45 minutes; at 256 an hour
  facts.side = 96;
  facts.epochs = 2;
  facts.batch = 4;
  recipe = finetune_recipe(facts, {"image_size", "epochs", "batch_size"});
  for (const char* given : {"--image-size", "--epochs", "--batch-size"})
    CHECK_MESSAGE(value_of(recipe, given) == "none", given);
}

TEST_CASE("flags of another optimizer or schedule are told to have no effect") {
  TrainConfig c;
  c.schedule.kind = ScheduleConfig::Kind::plateau;
  CHECK(flags_without_effect(c).empty());
  c.optimizer.nesterov = true;
  c.schedule.gamma = 0.5;
  c.schedule.warmup_factor = 0.5;
  c.schedule.patience = 4;
  const auto lines = flags_without_effect(c);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0] == "--nesterov: no effect with --optimizer adam");
  CHECK(lines[1] == "--gamma: no effect with --schedule plateau");
  CHECK(mentions(lines[2], "--warmup-factor"));
}

TEST_CASE("a batch norm over single values is refused") {
  TrainConfig c;
  c.model = "resnet18";
  c.batch = 1;
  c.preprocess.crop = 32;  // 1 x 1 in the last stage
  const TrainingData data{.train = {.classes = {"a", "b"}}};
  CHECK(mentions(message_of([&] { check_norms(c, data, 1); }, Failure::usage), "layer4.0"));
  CHECK(mentions(message_of([&] { check_norms(c, data, 2); }, Failure::usage), "layer4.0"));
  c.exchange.sync_norms = true;
  check_norms(c, data, 2);
  c.exchange.sync_norms = false;
  c.preprocess.crop = 64;
  check_norms(c, data, 1);
  c.preprocess.crop = 32;
  c.frozen_norms = true;
  check_norms(c, data, 1);
  c.frozen_norms = false;
  c.batch = 2;
  check_norms(c, data, 1);
}

TEST_CASE("--lr-find tells the rate of the least smoothed loss, or that there is none") {
  // Flat, from a rate of 1e-4 falling by a tenth per decade, beyond 1e-1 ten times as high per
  // decade.
  const auto loss = [](double rate) {
    const double decades = std::log10(rate);
    return decades < -4   ? 2.0
           : decades < -1 ? 2 - 0.2 * (decades + 4)
                          : 1.4 * std::pow(10, decades + 1);
  };
  LrFind falling(200);
  CHECK(falling.rate() == doctest::Approx(1e-7));
  falling.add(1.5);  // by chance, before the mean settles
  while (!falling.over()) falling.add(loss(falling.rate()));
  CHECK(falling.done() < 200);  // it blew up
  REQUIRE(falling.best_rate());
  CHECK(*falling.best_rate() > 5e-2);  // smoothing lags behind
  CHECK(*falling.best_rate() < 5e-1);
  CHECK(falling.csv().starts_with("step,lr,loss,smoothed_loss\n0,1e-07,1.5,1.5\n"));

  LrFind flat(100);
  for (int i = 0; !flat.over(); ++i) flat.add(i % 2 ? 2.3 : 2.31);
  CHECK(flat.done() == 100);
  CHECK(!flat.best_rate());
  CHECK(flat.fall() < 0.01);

  LrFind lost(100);
  for (int i = 0; i < 3; ++i) lost.add(2);
  lost.add(NAN);
  CHECK(lost.over());
  CHECK(lost.done() == 3);
}
