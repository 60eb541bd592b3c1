// engine bench data: its rows, its plot, and mistakes.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>

#include "io/files/csv.h"
#include "io/images/decode.h"
#include "tests/io/images/pillow.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

TEST_CASE("bench data: every step, cache, number of threads and strategy has a row") {
  const Drawn drawn(2, 1);
  const std::string csv_file = drawn.path("bench.csv");
  const std::string start = fmt::format(
      "bench data --data {} --model mnist_cnn --device cpu --cache-dir {} --images 4 --passes 1 "
      "--seconds 0.05 --batch-size 4 ",
      drawn.set.string(), drawn.path("cache"));
  const Outcome outcome =
      engine_cli(start + "--counts 1,3 --loaders 2 --need 1e9 --out " + csv_file);
  REQUIRE(outcome.code == 0);
  CHECK(mentions(outcome.out, "images/s/core"));
  for (const char* kind : {"none", "disk", "ram"})
    CHECK(mentions(outcome.out, fmt::format("cores with cache {}; this process has", kind)));

  const Csv csv = read_csv(csv_file);
  CHECK(csv.header == std::vector<std::string>{"group", "what", "cache", "threads",
                                               "images_per_second", "images_per_second_per_core",
                                               "need"});
  std::set<std::string> rows;
  for (const CsvRow& row : csv.rows) {
    const auto& f = row.fields;
    rows.insert(fmt::format("{}, {}, {}, {}", f[0], f[1], f[2], f[0] == "strategy" ? "" : f[3]));
    CHECK(std::stod(f[4]) > 0);
    CHECK(std::stod(f[5]) > 0);
    CHECK(std::stod(f[6]) == 1e9);
  }
  const std::set<std::string> expected = {
      "step, read, none, 1",
      "step, decode, none, 1",
      "step, resize, none, 1",
      "step, augment, none, 1",
      "step, file to crop, none, 1",
      "step, file to crop, fast decode, none, 1",
      "step, pack to crop, ram, 1",
      "loader, epochs, none, 1",
      "loader, epochs, none, 3",
      "loader, epochs, disk, 1",
      "loader, epochs, disk, 3",
      "loader, epochs, ram, 1",
      "loader, epochs, ram, 3",
      "strategy, one thread, none, ",
      "strategy, one loader per GPU, none, ",
      "strategy, manual split, none, ",
      "strategy, our pool, none, ",
  };
  CHECK(rows == expected);
  CHECK(csv.rows.size() == expected.size());

  const Outcome measured = engine_cli(start + "--steps-only --measure-need --json");
  REQUIRE(measured.code == 0);
  CHECK(mentions(measured.err, "mnist_cnn trains "));
  const json said = parse_json<json>(measured.out);
  CHECK(said["need"] > 0.);
  CHECK(said["cores"] >= 1);
  CHECK(said["rows"].size() == 7);
  CHECK(said["rows"][1]["what"] == "decode");

  if (!has_python_module("matplotlib")) return note_skipped("the plot needs matplotlib");
  const std::string plot = fmt::format(
      "/usr/bin/python3 -B -W error '{}/tools/plots/bench_data.py' ", ENGINE_SOURCE_DIR);
  const fs::path picture = drawn.path("bench.png"), log = drawn.path("log");
  CHECK(std::system(
            fmt::format("{} {} {} 2>{}", plot, csv_file, picture.string(), log.string()).c_str()) ==
        0);
  INFO(read(log));
  CHECK(read_image(picture, 3).width > 1000);
  CHECK(std::system(
            fmt::format("{} {} x.png 2>{}", plot, picture.string(), log.string()).c_str()) != 0);
  CHECK(mentions(read(log), "no file of engine bench data"));
  CHECK_FALSE(mentions(read(log), "Traceback"));
}

TEST_CASE("bench data --gaps: the stages, the threads and the need, where a loader was measured") {
  const Drawn drawn(1, 1);
  const std::string start = fmt::format(
      "bench data --data {} --model mnist_cnn --device cpu --images 2 --passes 1 --seconds 0.05 "
      "--caches none --loaders 1 --gaps ",
      drawn.set.string());
  const Outcome outcome = engine_cli(start + "--need 1e9");
  REQUIRE(outcome.code == 0);
  for (const char* part : {"the loader alone", "decode", "not accounted", "a loader of",
                           "copied to the device", "the step computes", "it waits"})
    CHECK(mentions(outcome.out, part));
  check_fails(engine_cli(start + "--steps-only"), 2, "--gaps: no loader");
}

TEST_CASE("bench data: wrong lists, data without files, a result that cannot be written") {
  const Drawn drawn(1, 1);
  const std::string start = fmt::format(
      "bench data --data {} --model mnist_cnn --device cpu --images 2 --passes 1 --steps-only ",
      drawn.set.string());
  check_fails(engine_cli(start + "--caches none,disc"), 2, "--caches 'none,disc'");
  check_fails(engine_cli(start + "--caches none,none"), 2, "each once");
  check_fails(engine_cli(start + "--cache ram"), 2, "--caches names the kinds");
  for (const char* list : {"0", "1;2", "2000"})
    check_fails(engine_cli(start + fmt::format("--counts '{}'", list)), 2, "--counts '");
  check_fails(engine_cli("bench data"), 2, "--data is missing");
  const Outcome unwritable = engine_cli(start + "--out /nonexistent/x.csv");
  CHECK(unwritable.code == 3);
  CHECK(mentions(unwritable.err, "/nonexistent/x.csv"));
  if (const auto shared = test_data(); shared && fs::exists(*shared / "mnist"))
    check_fails(engine_cli(fmt::format("bench data --data {} --model mnist_cnn --device cpu",
                                       (*shared / "mnist").string())),
                2, "the images are no files");
}
