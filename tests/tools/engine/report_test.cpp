// engine report, and what a training leaves for it and for people.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

TEST_CASE("a training leaves a model card, and engine report makes its page") {
  const Drawn drawn(4, 2);
  const std::string run = drawn.path("run");
  const Outcome trained = engine_cli(
      fmt::format("train --data '{}' --model mnist_cnn --image-size 28 --epochs 1 --batch-size 8 "
                  "--device cpu --out '{}'",
                  drawn.set.string(), run));
  INFO(trained.err);
  REQUIRE(trained.code == 0);
  const std::string card = read(fs::path(run) / "model_card.md");
  CHECK(mentions(
      card, "SHA-256 `" + sha256(read_file(fs::path(run) / "weights" / "best.safetensors")) + "`"));
  CHECK(mentions(card, "| arrow | 4 | 2 |"));
  CHECK(mentions(card, "engine train --data "));
  CHECK(mentions(card, "20 validation images."));
  CHECK(events(run, "data").back()["parts"][0]["images"] == 40);
  CHECK(read(fs::path(run) / "results.csv").find(",gpu/energy_joules,epoch_seconds\n") !=
        std::string::npos);

  for (const char* module : {"matplotlib", "PIL"})
    if (!has_python_module(module)) return note_skipped(fmt::format("plots need {}", module));
  const Outcome made = engine_cli(fmt::format("report '{}'", run));
  INFO(made.err);
  CHECK(made.code == 0);
  CHECK(made.out == run + "/report.html\n");
  const std::string page = read(fs::path(run) / "report.html");
  CHECK(mentions(page, "Findings</h2>"));
  CHECK(mentions(page, "Of 20 validation images in 10 classes"));
  CHECK_FALSE(mentions(page, " Wh "));  // of a CPU no energy is told
  const std::string elsewhere = drawn.path("page.html");
  CHECK(engine_cli(fmt::format("report '{}' --out '{}'", run, elsewhere)).out == elsewhere + "\n");
  check_fails(engine_cli(fmt::format("report '{}' --out '{}/none/a.html'", run, run)), 2,
              "there is no folder");
  CHECK(fs::exists(elsewhere));
}

TEST_CASE("engine report says what it lacks") {
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "run", python = folder.path() / "python";
  check_fails(engine_cli(fmt::format("report '{}'", run.string())), 2, "there is no such folder");
  fs::create_directory(run);
  check_fails(engine_cli(fmt::format("report '{}'", run.string())), 3,
              "neither metrics.json nor results.csv is there");
  write_text(run / "metrics.json", "{\"val\": ");
  const std::string by = fmt::format("report '{}' --python '{}'", run.string(), python.string());
  check_fails(engine_cli(by), 8, "apt-get install python3 python3-matplotlib python3-pil");
  write_text(python, "#!/bin/sh\necho matplotlib PIL\n");
  fs::permissions(python, fs::perms::owner_all);
  const Outcome lacks = engine_cli(by);
  check_fails(lacks, 8,
              "lacks: matplotlib PIL; apt-get install python3-matplotlib python3-pil, or");
  CHECK(mentions(lacks.err, "-m pip install matplotlib pillow"));
  for (const char* module : {"matplotlib", "PIL"})
    if (!has_python_module(module)) return note_skipped(fmt::format("plots need {}", module));
  check_fails(engine_cli(fmt::format("report '{}'", run.string())), 3, "metrics.json");
}
