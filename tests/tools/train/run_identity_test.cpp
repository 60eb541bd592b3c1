#include "tools/train/run_identity.h"

#include <doctest/doctest.h>

#include <set>

#include "engine/error.h"
#include "tests/support.h"
#include "tools/train/train_options.h"

using namespace engine;
using namespace engine::test;

namespace {

// The texts of a checkpoint as they have always been written: a run that is resumed reads them, and
// their SHA-256 stands in the file.
const std::map<std::string, std::string> kMetadata = {
    {"model", "mnist_cnn"},
    {"classes", R"(["0","1","\"two\", 2"])"},
    {"preprocess",
     R"({"channels":1,"crop":28,"interpolation":"bilinear",)"
     R"("mean":[0.1307000070810318,0.1307000070810318,0.1307000070810318],"resize":"28",)"
     R"("std":[0.30809998512268066,0.30809998512268066,0.30809998512268066]})"},
    {"images", "ec2f2445a8535949e40480645654a067646d0d987209a21e6592ee2f0ec30310"},
    {"batches", "4 x 2 x 3, seed 18446744073709551615, balanced"},
    {"recipe", R"({"accumulate":3,"batch_size":"4","crop":null,"eps":1e-08,"freeze":"","lr":0.001,)"
               R"("warmup_factor":0.3333333333333333})"},
    {"image_files", "0f4ea1a0a8a8f0f4a1b32b7b6ff2c7d1cbb2f2a3f51d0ffb8a3f8ad3f7d0cf31"},
    {"image_sizes", "d5f2c33161e5075b33a6d578020755d8164bf4d3bf693be31bb0a76d68a84f45"},
    {"image_contents", ""},
    {"cache", "disk"}};

RunIdentity example() {
  return run_identity_from(kMetadata, "step_00000003.safetensors");
}

}  // namespace

TEST_CASE("the texts of a checkpoint are read, and written as they were") {
  const RunIdentity identity = example();
  CHECK(identity.model == "mnist_cnn");
  CHECK(identity.classes == std::vector<std::string>{"0", "1", "\"two\", 2"});
  CHECK(identity.preprocess.crop == 28);
  CHECK(identity.batches == BatchOrder{4, 2, 3, UINT64_MAX, true});
  CHECK(identity.recipe.at("lr") == "0.001");
  CHECK(identity.recipe.at("crop") == "null");
  CHECK(identity.cache == CacheKind::disk);
  CHECK(to_metadata(identity) == kMetadata);
  for (const char* recipe : {"", "{\"lr\":0.d}", "[1]", "{\"a\":[[[[[[[[[[[[[[[[[[[["}) {
    auto broken = kMetadata;
    broken["recipe"] = recipe;
    CHECK_THROWS_WITH_AS(run_identity_from(broken, "a"), "a: its recipe is no JSON object", Error);
  }
  CHECK_FALSE(identity.norm_epsilon);
  auto other_norms = kMetadata;
  other_norms["norm_epsilon"] = "1e-05";
  CHECK(run_identity_from(other_norms, "a").norm_epsilon == 1e-5);
  CHECK(to_metadata(run_identity_from(other_norms, "a")) == other_norms);

  for (const auto& [name, text] : kMetadata) {
    std::map<std::string, std::string> less = kMetadata;
    less.erase(name);
    if (name == "image_files") {  // which former versions did not write
      CHECK(run_identity_from(less, "a.safetensors").image_files.empty());
      continue;
    }
    CHECK_THROWS_WITH_AS(run_identity_from(less, "a.safetensors"),
                         doctest::Contains((name + " is missing").c_str()), Error);
  }
}

TEST_CASE("a run goes on with its own classes and images; its order counts within an epoch") {
  const RunIdentity before = example();
  check_same_run(before, before, true);
  RunIdentity now = before;
  now.model = "another";                               // compared by the verb, which names the flag
  now.images.sizes = now.images.contents = "changed";  // said, but no obstacle
  now.cache = CacheKind::ram;
  check_same_run(before, now, true);

  now = before;
  now.batches = {8, 3, 1, now.batches.seed, true};
  check_same_run(before, now, true);
  now.batches.balanced = false;
  check_same_run(before, now, false);
  CHECK(
      mentions(message_of([&] { check_same_run(before, now, true); }, Failure::usage),
               "--seed 18446744073709551615 --sampler balanced gives; --seed 18446744073709551615 "
               "would see other images"));
  now = before;
  now.image_names = "others";
  CHECK(mentions(message_of([&] { check_same_run(before, now, false); }), "the labels are not"));
  now.image_files = "other files";
  CHECK(mentions(message_of([&] { check_same_run(before, now, false); }), "the images are not"));
  now = before;
  now.recipe["fold"] = "3";  // of a checkpoint that knows no folds nothing is said
  now.image_names = before.image_names, now.image_files = before.image_files;
  check_same_run(before, now, false);
  RunIdentity folded = now;
  folded.recipe["fold"] = "2";
  CHECK(mentions(message_of([&] { check_same_run(folded, now, false); }, Failure::usage),
                 "--fold 3: the run to resume has 2"));
  folded.recipe["fold"] = "null";
  CHECK(mentions(message_of([&] { check_same_run(folded, now, false); }, Failure::usage),
                 "--fold 3: the run to resume has none"));
  now = before;
  now.classes = {"0"};
  CHECK(mentions(message_of([&] { check_same_run(before, now, false); }),
                 "1 against 3, and number 1 is none, not \"1\""));
}

TEST_CASE("which flags a run that goes on may change without a word") {
  TrainOptions options;
  const Flags flags(options);
  std::set<std::string> may_change;
  for (const Flag& flag : flags.list())
    if (flag.may_change) may_change.insert(flag.key());
  CHECK(may_change ==
        std::set<std::string>{
            "data",      "out",       "resume",         "max_steps",      "max_time",
            "keep",      "gpus",      "ranks",          "launch",         "checkpoint_every",
            "workers",   "threads",   "head_init",      "weights",        "weights_key",
            "workspace", "device",    "cache",          "cache_dir",      "detect_anomaly",
            "lr_find",   "log_every", "on_leak",        "lr_find_steps",  "collective_timeout",
            "memory",    "by",        "threshold_rule", "reject_accuracy"});
  const RunIdentity identity = run_identity({}, {}, flags, 1);
  CHECK(identity.recipe.size() + may_change.size() == flags.list().size());
  CHECK(identity.recipe.at("batch_size") == "\"64\"");
}

TEST_CASE("images of other groups are other images; without groups nothing changes") {
  TrainOptions options;
  const Flags flags(options);
  TrainingData data{.train = {.classes = {"a"}, .samples = {{"x/1.png"}, {"x/2.png"}}},
                    .validation = {.classes = {"a"}, .samples = {{"x/3.png"}}}};
  const auto digest = [&] { return run_identity({}, data, flags, 1).image_names; };
  const std::string without = digest();
  CHECK(without == "51cb6c422fd977c083258d80ed18588b89e95eb2ffa77e0d40158c2302fac27b");
  data.train.samples[1].group = "patient 1";
  const std::string with = digest();
  CHECK(with != without);
  data.train.samples[1].group = "patient 2";
  CHECK(digest() != with);
}
