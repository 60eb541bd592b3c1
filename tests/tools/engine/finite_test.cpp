// Numbers that are not finite end train, eval and predict with 5, by name; files and flags that
// would make them are refused.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>

#include "engine/tensor.h"
#include "io/data/dataset.h"
#include "io/weights/safetensors.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

struct Digits {
  TemporaryFolder folder;
  std::string set = folder.path() / "set";

  Digits() {
    REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 9 --val 1", set)).code == 0);
  }
  fs::path path(const char* name) const { return folder.path() / name; }
  std::string train(const char* out, const std::string& more) const {
    return fmt::format(
        "train --data {} --out {} --model mnist_cnn --image-size 12 --device cpu --cache none "
        "--batch-size 6 {}",
        set, path(out).string(), more);
  }
};

// A rate at which the parameters are beyond what float holds after some steps.
const std::string kWild = "--optimizer sgd --momentum 0.9 --lr 1000 --epochs 30 ";

// The weights of a run with one tensor changed, as another program would write them: without seal.
void change(const fs::path& from, const fs::path& to, const char* name,
            const std::function<void(std::span<float>)>& edit) {
  TensorFile file = read_safetensors(from);
  edit(file.tensors.at(name).as<float>());
  file.metadata.erase("contents_sha256");
  write_safetensors(to, file);
}

int checkpoints(const fs::path& run) {
  int count = 0;
  std::error_code none;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(run / "ckpt", none)) ++count;
  return count;
}

}  // namespace

TEST_CASE(
    "a training that diverges ends with 5, names layer, step and images, and keeps the last") {
  const Digits digits;
  for (const char* more : {"--checkpoint-every 1 --threads 1", "--threads 2 --ranks 2",
                           "--threads 1 --detect-anomaly --accumulate 2"}) {
    CAPTURE(more);
    const fs::path run = digits.path("wild");
    fs::remove_all(run);
    const Outcome outcome = engine_cli(digits.train("wild", kWild + more));
    INFO(outcome.err);
    CHECK(outcome.code == 5);
    const auto said = events(run, "diverged");
    REQUIRE(said.size() == 1);
    const std::string first = said[0]["first"], image = said[0]["images"][0];
    CHECK(mentions(first, " holds "));
    CHECK(mentions(outcome.err, "epoch " + print_json(said[0]["epoch"]) + ", step " +
                                    print_json(said[0]["step"]) + ": "));
    CHECK(mentions(outcome.err, first));
    CHECK(mentions(outcome.err, image));
    CHECK(fs::exists(fs::path(digits.set) / "train" / image));
    CHECK(said[0]["images"].size() <= 6);
    // What was saved before is whole: a run that goes on from it meets the same end.
    if (checkpoints(run) == 0) continue;
    const Outcome again = engine_cli(digits.train("wild", kWild + more + " --resume auto"));
    CHECK(again.code == 5);
    CHECK(mentions(again.err, "resumed after"));
    CHECK(mentions(again.err, first));
  }
}

TEST_CASE("--detect-anomaly changes no bit of a training that is sound") {
  const Digits digits;
  const std::string calm = "--threads 1 --epochs 1 --seed 3 ";
  REQUIRE(engine_cli(digits.train("calm", calm)).code == 0);
  REQUIRE(engine_cli(digits.train("looked", calm + "--detect-anomaly")).code == 0);
  CHECK(last_state(digits.path("calm")) == last_state(digits.path("looked")));
}

TEST_CASE("eval and predict end with 5 where a logit is not finite, with 4 where a weight is not") {
  const Digits digits;
  REQUIRE(engine_cli(digits.train("run", "--threads 1 --epochs 1")).code == 0);
  const fs::path best = digits.path("run") / "weights/best.safetensors",
                 changed = digits.path("changed.safetensors");
  const std::string image = list_images(fs::path(digits.set) / "val").at(0);
  const auto fails = [&](int code, const std::string& why) {
    check_fails(engine_cli(fmt::format("eval --device cpu --data {} --resamples 0 --weights {}",
                                       digits.set, changed.string())),
                code, why);
    check_fails(
        engine_cli(fmt::format("predict --device cpu --weights {} {}", changed.string(), image)),
        code, why);
  };
  change(best, changed, "fc2.weight", [](std::span<float> w) {
    for (float& value : w) value = std::copysign(3e38f, value);
  });
  fails(5, "the first output that is not finite: fc2: its output holds ");
  fails(5, image);
  change(best, changed, "fc2.bias", [](std::span<float> w) { w.back() = HUGE_VALF; });
  fails(4, changed.string() + ": fc2.bias holds inf");
  change(best, changed, "conv1.weight", [](std::span<float> w) { w[1] = std::nanf(""); });
  fails(4, changed.string() + ": conv1.weight holds nan");
  CHECK(engine_cli(digits.train("from", "--epochs 1 --weights " + changed.string())).code == 4);
}

TEST_CASE("hyper-parameters that are degenerate or not finite are refused") {
  const Digits digits;
  for (const char* flag :
       {"--beta1 1", "--beta2 1", "--momentum 1", "--alpha 1", "--factor 1", "--ema 1", "--eps 0",
        "--lr nan", "--lr inf", "--clip-norm inf", "--weight-decay nan", "--label-smoothing 1"}) {
    CAPTURE(flag);
    check_fails(engine_cli(digits.train("none", flag)), 2,
                std::string(flag).substr(0, std::string(flag).find(' ')));
    CHECK_FALSE(fs::exists(digits.path("none")));
  }
  write_text(digits.path("weights.csv"), "class,weight\n0,inf\n");
  check_fails(
      engine_cli(digits.train("none", "--class-weights " + digits.path("weights.csv").string())), 3,
      "'inf' is no finite weight above 0");
}
