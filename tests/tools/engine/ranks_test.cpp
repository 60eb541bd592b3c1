// Several ranks are one run: its weights and figures are those of one rank with the whole batch.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <sstream>

#include "io/weights/safetensors.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

void check_same_weights(const fs::path& one, const fs::path& two) {
  const TensorFile a = read_safetensors(one / "weights/last.safetensors"),
                   b = read_safetensors(two / "weights/last.safetensors");
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    CAPTURE(name);
    CHECK(relative_error(b.tensors.at(name).as<float>(), tensor.as<float>()) <= 1e-5);
  }
}

// For runs of the mnist_cnn, which has no norms that would see other batches.
void check_same_run(const fs::path& one, const fs::path& two) {
  check_same_weights(one, two);
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
          "train --data {} --out {} --model mnist_cnn --image-size 12 --device cpu --cache none "
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
  CHECK(parse_json<nlohmann::json>(scored.out)["loss"].get<double>() ==
        doctest::Approx(std::stod(val_loss)).epsilon(1e-5));
}

namespace {

// A run of the mnist_cnn in legs: each goes on with other ranks and batches after that many steps.
struct Leg {
  int ranks, batch, steps;
};

fs::path train_in_legs(const fs::path& folder, const std::string& name, const std::string& more,
                       const std::vector<Leg>& legs) {
  const fs::path out = folder / name;
  for (const Leg& leg : legs) {
    const Outcome outcome = engine_cli(fmt::format(
        "train --data {} --out {} --resume auto --model mnist_cnn --image-size 12 --device cpu "
        "--cache none --epochs 2 --aug standard --optimizer sgd --momentum 0.9 {} "
        "--ranks {} --threads {} --batch-size {} --max-steps {}",
        (folder / "set").string(), out.string(), more, leg.ranks, leg.ranks, leg.batch, leg.steps));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  }
  return out;
}

// Of the last row of an epoch.
double figure(const fs::path& run, const std::string& epoch, size_t column) {
  std::string found;
  for (const std::string& row : figures(run))
    if (row.starts_with(epoch + ",")) found = row;
  std::istringstream fields(found);
  std::string field;
  for (size_t i = 0; i <= column; ++i) std::getline(fields, field, ',');
  REQUIRE(!field.empty());
  return std::stod(field);
}

constexpr size_t kTrainLoss = 1, kRate = 5, kStep = 7;

// 37 images.
void draw_odd_set(const fs::path& folder) {
  const std::string set = folder / "set";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 4 --val 1", set)).code == 0);
  for (const char* gone : {"1/00000.png", "1/00001.png", "5/00000.png"})
    REQUIRE(fs::remove(fs::path(set) / "train" / gone));
}

}  // namespace

// The weights stand still at a rate of 0, so the training loss is the mean over the images that the
// epoch has seen, and one image more or less would show in its third or fourth digit.
TEST_CASE("a run that goes on with other ranks sees each image once per epoch") {
  const TemporaryFolder folder;
  draw_odd_set(folder.path());
  const fs::path calm = train_in_legs(folder.path(), "calm", "--lr 0", {{1, 8, 0}});
  const fs::path fewer = train_in_legs(folder.path(), "fewer", "--lr 0",
                                       {{2, 4, 2}, {3, 3, 3}, {1, 5, 0}}),
                 more = train_in_legs(folder.path(), "more", "--lr 0 --accumulate 2",
                                      {{2, 4, 1}, {3, 4, 3}, {1, 7, 4}, {3, 1, 0}});
  for (const fs::path& run : {fewer, more})
    for (const char* epoch : {"1", "2"})
      CHECK(figure(run, epoch, kTrainLoss) ==
            doctest::Approx(figure(calm, epoch, kTrainLoss)).epsilon(1e-5));
  // 2 updates of 8 and one of 9 images; then 12 are left for one rank, and 37 in the second epoch.
  CHECK(figure(fewer, "1", kStep) == 3 + 3);
  CHECK(figure(fewer, "2", kStep) == 3 + 3 + 8);
}

TEST_CASE("other ranks with the same images per update end as the calm run") {
  const TemporaryFolder folder;
  draw_odd_set(folder.path());
  const std::string recipe = "--lr 0.01 --schedule cosine --schedule-by step";
  const fs::path calm = train_in_legs(folder.path(), "calm", recipe, {{1, 12, 0}}),
                 run = train_in_legs(folder.path(), "run", recipe,
                                     {{2, 6, 2}, {3, 4, 3}, {1, 12, 6}, {3, 4, 0}});
  check_same_weights(calm, run);
  for (const char* epoch : {"1", "2"})
    for (size_t column = kTrainLoss; column <= kStep; ++column)
      CHECK(figure(run, epoch, column) ==
            doctest::Approx(figure(calm, epoch, column)).epsilon(2e-5));
}

TEST_CASE("the schedule follows the images, whatever batches they come in") {
  const TemporaryFolder folder;
  draw_odd_set(folder.path());
  const std::string recipe = "--lr 0.01 --schedule cosine --schedule-by step";
  const fs::path calm = train_in_legs(folder.path(), "calm", recipe, {{1, 5, 0}}),
                 run = train_in_legs(folder.path(), "run", recipe, {{2, 4, 2}, {1, 5, 0}});
  for (const char* epoch : {"1", "2"})
    CHECK(figure(run, epoch, kRate) == doctest::Approx(figure(calm, epoch, kRate)).epsilon(1e-5));
}

// What rounding alone makes of three steps of an untrained network, one rank shows with another
// number of threads.
TEST_CASE("--sync-bn: ranks with norms end as one rank with the whole batch") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set";
  REQUIRE(engine_cli(fmt::format("draw objects --out {} --size 64 --train 3 --val 1", set)).code ==
          0);
  const auto train = [&](const char* name, int ranks, int threads, const char* more) {
    const fs::path out = folder.path() / name;
    const Outcome outcome = engine_cli(
        fmt::format("train --data {} --out {} --model efficientnet_b0 --image-size 64 --device cpu "
                    "--cache none --epochs 1 --optimizer sgd --lr 0.001 --ranks {} --threads {} "
                    "--batch-size {} {}",
                    set, out.string(), ranks, threads, 12 / ranks, more));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    std::vector<float> weights;
    for (const auto& [key, tensor] : read_safetensors(out / "weights/last.safetensors").tensors)
      if (!key.ends_with("num_batches_tracked"))
        weights.insert(weights.end(), tensor.as<float>().begin(), tensor.as<float>().end());
    return weights;
  };
  const std::vector<float> one = train("one", 1, 1, "");
  const double rounding = relative_error(train("threads", 1, 2, ""), one),
               shared = relative_error(train("shared", 2, 2, "--sync-bn"), one),
               apart = relative_error(train("apart", 2, 2, ""), one);
  MESSAGE("weights from one rank's: threads " << rounding << ", --sync-bn " << shared
                                              << ", without " << apart);
  CHECK(shared <= 10 * rounding);
  CHECK(shared <= apart / 50);
}

TEST_CASE("gradients travel in 16 bits between GPUs alone") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set", out = folder.path() / "run";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 1 --val 1", set)).code == 0);
  check_fails(engine_cli(fmt::format("train --data {} --out {} --model mnist_cnn --device cpu "
                                     "--bucket-precision bf16",
                                     set, out)),
              2, "--bucket-precision bf16: only between GPUs");
  CHECK(!fs::exists(out));
}
