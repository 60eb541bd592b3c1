// The pictures of a study.
#include <fmt/format.h>

#include <fstream>

#include "tests/io/images/pillow.h"
#include "tests/support.h"
#include "tests/tools/plots/python.h"
#include "tests/tools/scale/study_rows.h"
#include "tools/scale/report.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

const std::string kScript = ENGINE_SOURCE_DIR "/tools/plots/scale.py";

void write(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

// Two precisions, two batches, weak and strong scaling, two numbers of loading threads, two
// independent ranks, and one configuration that does not fit.
void make_study(const fs::path& folder) {
  std::vector<RunRow> rows;
  for (const char* precision : {"fp32", "fp16"})
    for (const int loading : {1, 8})
      for (const int batch : {32, 64})
        for (const int ranks : {1, 2, 3})
          for (const bool strong : {false, true})
            for (int repeat = 1; repeat <= 3; ++repeat) {
              if (strong && ranks == 1) continue;
              RunRow row =
                  measured_row(ranks, strong ? (batch + ranks - 1) / ranks : batch,
                               strong ? batch : batch * ranks, strong ? "strong" : "weak",
                               (90 + repeat + batch) * (ranks - 0.1 * (ranks - 1)), repeat);
              row.precision = precision;
              row.loader_threads = loading;
              rows.push_back(row);
            }
  rows.push_back(measured_row(2, 32, 64, "independent", 248));
  rows.back().loader_threads = 8;
  rows.push_back(measured_row(1, 4096, 4096, "weak", 1));
  rows.back().images_per_second = kNotMeasured;
  rows.back().status = "does_not_fit";
  write(folder / "summary.csv", summary_csv(summarise(rows, 60'000)));
  const std::vector<std::string> models = {"mnist_cnn"};
  write(folder / "published.csv", published_csv(std::vector{published_rate()}, models));
  write(folder / "study.json", R"({"unit": "GPU"})");
}

}  // namespace

TEST_CASE("every question of a study has its picture") {
  if (!has_python_module("matplotlib")) return note_skipped("plots need matplotlib");
  const TemporaryFolder folder;
  const fs::path study = folder.path() / "study", log = folder.path() / "log";
  fs::create_directory(study);
  make_study(study);
  const int status = python(fmt::format("-W error '{}' '{}'", kScript, study.string()), log);
  INFO(read(log));
  REQUIRE(status == 0);
  for (const char* name : {"throughput", "speed_up", "efficiency", "components", "batches", "best",
                           "memory", "precision", "workers"})
    check_png(study / fmt::format("scale_{}.png", name));
}

TEST_CASE("a study of one configuration has the pictures that it can have") {
  if (!has_python_module("matplotlib")) return note_skipped("plots need matplotlib");
  const TemporaryFolder folder;
  const fs::path study = folder.path(), log = folder.path() / "log";
  const std::string command = fmt::format("-W error '{}' '{}' --format svg --out '{}'", kScript,
                                          study.string(), (study / "pictures").string());
  CHECK(python(command, log) != 0);  // there is no summary.csv
  CHECK(mentions(read(log), "summary.csv"));
  CHECK(read(log).find("Traceback") == std::string::npos);
  write(study / "summary.csv",
        summary_csv(summarise(std::vector{measured_row(1, 32, 32, "weak", 100)}, 0)));
  const int status = python(command, log);
  INFO(read(log));
  REQUIRE(status == 0);
  CHECK(fs::exists(study / "pictures" / "scale_components.svg"));
  CHECK(fs::exists(study / "pictures" / "scale_best.svg"));
  CHECK_FALSE(fs::exists(study / "pictures" / "scale_efficiency.svg"));
}
