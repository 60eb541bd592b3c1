#include "tools/train/run_flags.h"

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "tests/support.h"
#include "tools/train/train_options.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

TEST_CASE("later starts are numbered, and the latest counts, without what is of one start only") {
  const TemporaryFolder folder;
  const fs::path& run = folder.path();
  CHECK(!latest_flags(run));
  CHECK(first_free(run, "args", ".json") == "args.json");
  std::ofstream(run / "args.json") << R"({"epochs": 3, "out": "runs/a", "resume": ""})";
  CHECK(first_free(run, "args", ".json") == "args-2.json");
  CHECK(latest_flags(run)->json == R"({"epochs":3})");
  std::ofstream(run / "args-2.json") << R"({"epochs": 5, "out": "", "resume": "/a"})";
  CHECK(first_free(run, "args", ".json") == "args-3.json");
  CHECK(latest_flags(run)->json == R"({"epochs":5})");
  CHECK(latest_flags(run)->from == (run / "args-2.json").string());
  std::ofstream(run / "args-3.json") << "[]";
  CHECK_THROWS_WITH_AS(latest_flags(run),
                       ((run / "args-3.json").string() + ": no JSON object").c_str(), Error);
}

TEST_CASE("the run of a checkpoint is the folder above ckpt/") {
  const TemporaryFolder folder;
  CHECK(run_of(folder.path()) == folder.path());
  CHECK(run_of(folder.path() / "ckpt" / "step_00000001.safetensors") == folder.path());
}

TEST_CASE("paths among flags become absolute, other words stay") {
  const fs::path here = fs::current_path();
  TrainOptions o;
  o.data = "set/../images";
  o.image_root = "pictures";
  o.weights = "imagenet";
  o.weighting = "auto";
  o.resume = "auto";
  make_paths_absolute(Flags(o));
  CHECK(o.data == here / "images");
  CHECK(o.image_root == here / "pictures");
  CHECK(o.out.empty());
  CHECK(o.weights == "imagenet");
  CHECK(o.weighting == "auto");
  CHECK(o.resume == "auto");
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "file";
  std::ofstream(file) << "there";
  o.weights = fs::relative(file);
  o.weighting = fs::relative(file);
  make_paths_absolute(Flags(o));
  CHECK(o.weights == file);
  CHECK(o.weighting == file.string());
}
