// engine eval: the data that train takes, the parts of a run again, labels and bad images.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "io/files/csv.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// Scores the images that a CSV names, with the weights of the run `out`.
void check_labels(const Drawn& drawn, const fs::path& out) {
  const fs::path file = drawn.path("labels.csv");
  const std::string labels = fmt::format(
      "eval --labels {} --device cpu --weights {}/weights/best.safetensors "
      "--resamples 0 --json ",
      file.string(), out.string());
  const std::string a = drawn.image("train", "disk", 0), b = drawn.image("train", "star", 0),
                    c = drawn.image("train", "star", 1);
  const auto count = [&](const std::string& more) {
    return parse_json<json>(engine_cli(labels + more).out)["samples"].get<int>();
  };
  write_text(file,
             fmt::format("path,label,split\n{},disk,test\n{},star,val\n{},star,val\n", a, b, c));
  CHECK(count("") == 2);
  CHECK(count("--part test") == 1);
  check_fails(engine_cli(labels + "--part train"), 3, "none of 3 images is in the part train");
  write_text(file, fmt::format("path,label\n{},disk\n{},star\n", a, b));
  CHECK(count("") == 2);
  check_fails(engine_cli(labels + "--part val"), 2, "no column split");
  write_text(file, fmt::format("path,label\n{},disk\n{},hexagon\n", a, b));
  check_fails(engine_cli(labels), 3,
              "labels.csv, line 3: class \"hexagon\" is not one of the 10 classes trained on");
  write_text(file, fmt::format("path,label\n{},disk\n{}.png,star\n", a, b));
  check_fails(engine_cli(labels), 3, "labels.csv, line 3: no file");
  write_text(file, fmt::format("path,label\n{0},disk\n{0},disk\n", a));
  check_fails(engine_cli(labels), 3, "line 3: " + a + " is in line 2 already");
}

}  // namespace

TEST_CASE("eval takes the data that train takes, and scores a run's own parts again") {
  const Drawn drawn(6, 1);
  const fs::path out = drawn.path("run"), train = drawn.set / "train", again = drawn.path("again");
  fs::copy_file(drawn.image("train", "ring", 1), train / "ring/copy.png");
  const std::string flags =
      fmt::format("--data {} --device cpu --threads 1 --batch-size 7 --cache-dir {} ",
                  train.string(), drawn.path("cache"));
  // Of 6 images 3, 1 and 2; of ring's 7 there are 4, 1 and 2.
  REQUIRE(
      engine_cli(fmt::format("train {} --model mnist_cnn --epochs 1 --image-size 12 --cache disk "
                             "--split 0.5/0.2/0.3 --stratify --split-seed 2 --out {}",
                             flags, out.string()))
          .code == 0);
  const std::string eval = fmt::format(
      "eval {} --weights {}/weights/best.safetensors --resamples 0 ", flags, out.string());
  const auto predictions = [&](const std::string& more) {
    const Outcome outcome = engine_cli(eval + more + " --out " + again.string());
    INFO(outcome.err);
    CHECK(outcome.code == 0);
    return read(again / "predictions.csv");
  };
  const std::string from_file = "--split-file " + (out / "split.csv").string();
  const std::string drawn_again = "--split 0.5/0.2/0.3 --stratify --split-seed 2";
  for (const std::string& split : {from_file, drawn_again})
    for (const char* cache : {"none", "disk"}) {
      CAPTURE(split);
      CHECK(predictions(fmt::format("{} --part test --cache {}", split, cache)) ==
            read(out / "test_predictions.csv"));
      CHECK(predictions(fmt::format("{} --cache {}", split, cache)) ==
            read(out / "predictions.csv"));
    }
  const auto images = [&](const std::string& more) {
    const Outcome outcome = engine_cli(eval + more + " --json");
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return parse_json<json>(outcome.out)["samples"].get<int>();
  };
  CHECK(images("") == 61);  // all of a plain folder
  CHECK(images("--part val " + from_file) == 10);
  CHECK(images("--part train " + from_file) == 31);

  check_labels(drawn, out);

  fs::copy_file(drawn.image("train", "star", 0), drawn.set / "val/star/leak.png");
  const std::string whole = fmt::format(
      "eval --data {} --device cpu --resamples 0 --weights {}/weights/best.safetensors ",
      drawn.set.string(), out.string());
  const Outcome leak = engine_cli(whole + "--out " + again.string());
  CHECK(leak.code == 0);
  CHECK(mentions(leak.err, "1 image is in several parts, the first in train as"));
  CHECK(read_csv(again / "duplicates.csv").rows.size() == 2);
  CHECK_FALSE(mentions(engine_cli(whole + "--no-duplicate-check").err, "several parts"));

  const fs::path bad = drawn.image("train", "ring", 2);
  fs::resize_file(bad, 50);
  check_fails(engine_cli(eval), 3, bad.string());
  CHECK(images("--on-bad-image skip") == 60);
  CHECK(mentions(engine_cli(eval + "--on-bad-image skip").err, "skipped " + bad.string()));
}
