// Several ranks are one run: its weights and figures are those of one rank with the whole batch.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "io/weights/safetensors.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// For runs of the mnist_cnn, which has no norms that would see other batches.
void check_same_run(const fs::path& one, const fs::path& two) {
  const TensorFile a = read_safetensors(one / "weights/last.safetensors"),
                   b = read_safetensors(two / "weights/last.safetensors");
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    CAPTURE(name);
    CHECK(relative_error(b.tensors.at(name).as<float>(), tensor.as<float>()) <= 1e-5);
  }
  const auto ours = figures(one), theirs = figures(two);
  REQUIRE(ours.size() == theirs.size());
  REQUIRE(ours.size() > 1);
  CHECK(ours[0] == theirs[0]);
  for (size_t row = 1; row < ours.size(); ++row) {
    std::istringstream left(ours[row]), right(theirs[row]);
    for (std::string x, y; std::getline(left, x, ',') && std::getline(right, y, ',');)
      CHECK(std::stod(x) == doctest::Approx(std::stod(y)).epsilon(2e-5));
  }
}

}  // namespace

TEST_CASE("every recipe ends as one rank with the whole batch") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 4 --val 2", set)).code == 0);
  for (const char* gone : {"train/1/00000.png", "train/1/00001.png", "train/1/00002.png",
                           "train/5/00000.png", "val/7/00001.png"})
    REQUIRE(fs::remove(fs::path(set) / gone));  // classes of several sizes, batches of a ragged end
  int number = 0;
  for (const char* recipe :
       {"", "--clip-norm 0.5", "--accumulate 2", "--ema 0.8", "--label-smoothing 0.1",
        "--class-weights auto", "--class-weights auto --accumulate 3 --label-smoothing 0.1",
        "--sampler balanced", "--schedule plateau --patience 0 --factor 0.5 --epochs 3",
        "--early-stop 1 --min-delta 5 --epochs 3", "--freeze conv1", "--layer-decay 0.5",
        "--schedule one-cycle --warmup-steps 3", "--aug standard",
        "--optimizer adamw --lr 0.0003"}) {
    CAPTURE(recipe);
    const auto train = [&](int ranks) {
      const fs::path out = folder.path() / std::to_string(number++);
      const Outcome outcome = engine_cli(fmt::format(
          "train --data {} --out {} --model mnist_cnn --device cpu --cache none "
          "--epochs 2 --aug none --optimizer sgd --lr 0.01 --momentum 0.9 {} --ranks {} "
          "--threads {} --batch-size {}",
          set, out.string(), recipe, ranks, ranks, 8 / ranks));
      REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
      return out;
    };
    const fs::path one = train(1), two = train(2);
    check_same_run(one, two);
  }
}

TEST_CASE("two ranks judge the running statistics that are saved, and go on from them") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set", calm = folder.path() / "calm",
                    stopped = folder.path() / "stopped";
  REQUIRE(engine_cli(fmt::format("draw objects --out {} --size 32 --train 3 --val 2", set)).code ==
          0);
  const auto train = [&](const std::string& out, const char* more) {
    return engine_cli(
        fmt::format("train --data {} --out {} --model efficientnet_b0 --ranks 2 "
                    "--image-size 32 --batch-size 4 --epochs 2 --device cpu "
                    "--cache none {}",
                    set, out, more));
  };
  REQUIRE(train(calm, "").code == 0);
  REQUIRE(train(stopped, "--max-steps 4").code == 0);  // an epoch
  REQUIRE(train(stopped, "--resume auto").code == 0);
  CHECK(figures(calm).size() == 3);
  CHECK(figures(calm) == figures(stopped));

  const Outcome scored = engine_cli(fmt::format(
      "eval --data {} --weights {}/weights/last.safetensors --device cpu --json", set, calm));
  std::istringstream last(figures(calm).back());
  std::string val_loss;
  for (int column = 0; column < 5; ++column) std::getline(last, val_loss, ',');
  // Six digits are written.
  CHECK(nlohmann::json::parse(scored.out)["loss"].get<double>() ==
        doctest::Approx(std::stod(val_loss)).epsilon(1e-5));
}
