// What others make of a run directory: our plots, and TensorBoard.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "io/images/draw.h"
#include "io/images/encode.h"
#include "tests/io/images/pillow.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/plots/python.h"
#include "tools/bench/profile_report.h"
#include "tools/score/score.h"
#include "tools/train/run_directory.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

RunDirectory open_run(const fs::path& folder, bool resume) {
  RunDirectory run = RunDirectory::create(RunLock::take(folder, "mnist_cnn", resume));
  run.keep();
  return run;
}

// A run of three epochs on images of `classes` classes, one of which could not be found any more.
void make_run(const fs::path& folder, int classes, bool gpu) {
  RunDirectory run = open_run(folder, false);
  run.write_environment({{"ranks", 1}});
  run.write_command({"train", "", {"--data", "<images> & more"}});
  for (int epoch = 1; epoch <= 3; ++epoch) {
    MachineUse use{.process_cores = 1.5, .host_cpu = 0.4, .memory_gib = 1};
    if (gpu) use.gpu = GpuReading{0.9, 20, 400, 60};
    run.log_epoch({.epoch = epoch,
                   .seconds = 10. * epoch,
                   .train_loss = 2. / epoch,
                   .val_loss = 2.1 / epoch,
                   .top1 = 0.3 * epoch,
                   .top5 = 1,
                   .lr = 1e-3,
                   .step = 5 * epoch,
                   .images_per_second = 100,
                   .wait_share = 0.01,
                   .use = use});
  }
  Dataset data;
  EvaluationResult result;
  for (int c = 0; c < classes; ++c) data.classes.push_back(fmt::format("class <{}>", c));
  for (int i = 0; i < 3 * classes; ++i) {
    const fs::path file = folder / fmt::format("image{}.png", i);
    if (i > 0) write_image(file, Image(20, 30 - i % 7, 3));
    data.samples.push_back({file.string(), i % classes});
    for (int c = 0; c < classes; ++c)
      result.logits.push_back(static_cast<float>((7 * i + 5 * c) % 11) / 4 + (c == i % classes));
    result.counted.push_back(1);
  }
  write_score(folder, result, data, {.resamples = 50});
  write_score(folder, result, data, {.part = "test", .prefix = "test_", .resamples = 0});
}

// Flags of three kinds, and one without a value.
struct FlagSet {
  double rate = 0.25;
  std::string model = "mnist_cnn", weights;
  bool nesterov = true;
  void visit(auto& v) {
    v("--rate", rate, "");
    v("--model", model, "");
    v("--weights", weights, "");
    v("--nesterov", nesterov, "");
  }
};

}  // namespace

TEST_CASE("every plot is made of both parts, with few classes and with many") {
  for (const char* module : {"matplotlib", "PIL"})
    if (!has_python_module(module)) return note_skipped(fmt::format("plots need {}", module));
  const std::string plots = ENGINE_SOURCE_DIR "/tools/plots/";
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "run", log = folder.path() / "log";
  const std::vector<std::string> of_part = {"confusion", "roc", "reliability", "classes",
                                            "top_losses"};
  std::vector<std::string> of_run_and_part = {"curves", "machine", "report"};
  of_run_and_part.insert(of_run_and_part.end(), of_part.begin(), of_part.end());
  const auto draw = [&](const std::vector<std::string>& names, const std::string& flags) {
    std::string scripts;
    for (const std::string& name : names) scripts += fmt::format(" '{}{}.py'", plots, name);
    const int status = python(fmt::format("-W error '{}/tests/tools/plots/each.py'{} -- '{}' {}",
                                          ENGINE_SOURCE_DIR, scripts, run.string(), flags),
                              log);
    INFO(read(log));
    REQUIRE(status == 0);
    for (const std::string& name : names)
      CHECK(mentions(read(log), fmt::format("{}.py: ends with 0", name)));
  };
  for (bool many : {false, true}) {
    CAPTURE(many);
    fs::remove_all(run);
    make_run(run, many ? 23 : 4, many);
    draw(of_run_and_part, "");
    draw(of_part, "--part test");
    for (const char* name : {"curves", "machine", "confusion_matrix", "roc", "reliability",
                             "classes", "top_losses", "test_confusion_matrix", "test_roc",
                             "test_reliability", "test_classes", "test_top_losses"})
      check_png(run / fmt::format("{}.png", name));
    const std::string html = read(run / "report.html");
    CHECK(html.find("class &lt;3&gt;") != std::string::npos);
    CHECK(html.find("&lt;images&gt; &amp; more") != std::string::npos);
    CHECK(html.find("<images>") == std::string::npos);
  }
}

TEST_CASE("each plot is a command, and says where there is nothing to plot") {
  if (!has_python_module("matplotlib")) return note_skipped("plots need matplotlib");
  const std::string plots = ENGINE_SOURCE_DIR "/tools/plots/";
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "run", log = folder.path() / "log";
  make_run(run, 4, false);
  CHECK(python(fmt::format("'{}confusion.py' '{}' --part test --out '{}'", plots, run.string(),
                           (folder.path() / "c.svg").string()),
               log) == 0);
  CHECK(read(folder.path() / "c.svg").find("<svg") != std::string::npos);
  {
    std::ofstream rates(run / "lr_find.csv");  // falls, then blows up
    rates << "step,lr,loss,smoothed_loss\n";
    for (int i = 0; i < 60; ++i) {
      const double loss = i < 50 ? 3 - 0.04 * i : 1 + i;
      rates << fmt::format("{},{},{},{}\n", i, 1e-7 * std::pow(1.3, i), loss, loss);
    }
  }
  CHECK(python(fmt::format("'{}lr_find.py' '{}'", plots, run.string()), log) == 0);
  check_png(run / "lr_find.png");
  const fs::path empty = folder.path() / "empty";
  fs::create_directory(empty);
  const char* const all[] = {"curves",      "machine", "confusion", "roc",
                             "reliability", "classes", "reject",    "precision_recall",
                             "top_losses",  "lr_find", "profile",   "report"};
  std::string scripts;
  for (const char* name : all) scripts += fmt::format(" '{}{}.py'", plots, name);
  REQUIRE(python(fmt::format("'{}/tests/tools/plots/each.py'{} -- '{}'", ENGINE_SOURCE_DIR, scripts,
                             empty.string()),
                 log) == 0);
  const std::string said = read(log);
  for (const char* name : all) {
    CHECK(said.find(fmt::format("{}{}.py: ends with ", plots, name)) != std::string::npos);
    CHECK(said.find(fmt::format("{}{}.py: ends with 0\n", plots, name)) == std::string::npos);
  }
  CHECK(said.find("Traceback") == std::string::npos);
}

TEST_CASE("a profile is drawn, also one whose parts are more than the step") {
  if (!has_python_module("matplotlib")) return note_skipped("plots need matplotlib");
  const TemporaryFolder folder;
  const fs::path log = folder.path() / "log";
  auto profile = profile_json(
      profile_step(with_defaults({.model = "mnist_cnn", .batch = 4, .steps = 2, .warmup = 1}),
                   choose_ranks({.device = Device::cpu, .threads = 1})));
  for (const double missed : {0.2, -0.2}) {
    CAPTURE(missed);
    profile["gaps"]["not_accounted_ms"] = missed * profile["gaps"]["step_ms"].get<double>();
    std::ofstream(folder.path() / "profile.json") << print_json(profile);
    const int status = python(fmt::format("-W error '{}/tools/plots/profile.py' '{}'",
                                          ENGINE_SOURCE_DIR, folder.path().string()),
                              log);
    INFO(read(log));
    REQUIRE(status == 0);
    check_png(folder.path() / "profile.png");
  }
}

TEST_CASE("McNemar's exact test of two evaluations, on the images that both have") {
  if (!has_python_module("matplotlib")) return note_skipped("plots need matplotlib");
  const TemporaryFolder folder;
  const fs::path a = folder.path() / "a", b = folder.path() / "b", log = folder.path() / "log";
  fs::create_directories(a);
  fs::create_directories(b);
  std::ofstream first(a / "predictions.csv"), second(b / "predictions.csv");
  for (std::ofstream* file : {&first, &second})
    *file << "path,label,prediction,p_prediction,p_label,loss\n";
  // Both right 20, only the first 10, only the second 2, neither 3; and one image that the second
  // lacks.
  for (int i = 0; i < 36; ++i) {
    const bool first_right = i < 30 || i == 35, second_right = i < 20 || (i >= 30 && i < 32);
    first << fmt::format("{}.jpg,x,{},1,1,0\n", i, first_right ? "x" : "y");
    if (i < 35) second << fmt::format("{}.jpg,x,{},1,1,0\n", i, second_right ? "x" : "y");
  }
  first.close();
  second.close();
  REQUIRE(python(fmt::format("'{}/tools/plots/mcnemar.py' '{}' '{}' --json", ENGINE_SOURCE_DIR,
                             a.string(), b.string()),
                 log) == 0);
  const json said = parse_json<json>(read(log));
  CHECK(said["images"] == 35);
  CHECK(said["only_first"] == 10);
  CHECK(said["only_second"] == 2);
  CHECK(said["p"].get<double>() == doctest::Approx(2 * (1 + 12 + 66) / 4096.));  // C(12, k), k ≤ 2
}

TEST_CASE("TensorBoard reads the events of a run, and those of a resumed one once") {
  if (!has_python_module("tensorboard")) return note_skipped("no tensorboard to read event files");
  const TemporaryFolder folder;
  const auto epoch = [](RunDirectory& run, int number) {
    for (int step = 2 * number - 1; step <= 2 * number; ++step)
      run.log_step(number, step, {{"loss", 1. / step}, {"lr", 1e-3}});
    run.log_epoch({.epoch = number, .train_loss = 0.5, .top1 = 0.1 * number, .step = 2 * number});
  };
  {
    RunDirectory run = open_run(folder.path() / "run", false);
    FlagSet set;
    run.begin_session(Flags(set));
    run.log_picture(0, "examples/train", Image(20, 10, 3));
    for (int number = 1; number <= 3; ++number) epoch(run, number);
  }
  for (const auto& entry : fs::directory_iterator(folder.path() / "run"))
    if (entry.path().filename().string().starts_with("events"))  // killed while writing
      fs::resize_file(entry.path(), fs::file_size(entry.path()) - 9);
  RunDirectory run = open_run(folder.path() / "run", true);
  run.continue_after(1, 3);
  run.log_step(2, 4, {{"loss", 40.}, {"overflow", true}});
  run.log_epoch({.epoch = 2, .top1 = 0.7, .step = 4});
  run.end_session(true);

  const fs::path out = folder.path() / "read";
  const int status = python(fmt::format("'{}/tests/tools/plots/read_events.py' '{}'",
                                        ENGINE_SOURCE_DIR, run.path().string()),
                            out);
  INFO(read(out));
  REQUIRE(status == 0);
  const std::string text = read(out);
  const json scalars = parse_json<json>(text.substr(text.rfind("\n{") + 1));
  const json loss = {{1, 1.f}, {2, 0.5f}, {3, 1.f / 3}, {4, 40.f}};
  CHECK(scalars["train/loss"] == loss);
  CHECK(scalars["val/accuracy_top1"] == json{{2, 0.1f}, {4, 0.7f}});
  CHECK_FALSE(scalars.contains("val/auc_macro"));
  CHECK_FALSE(scalars.contains("train/overflow"));
  CHECK(scalars["images"] == json{{"examples/train", {{{"step", 0}, {"size", {20, 10}}}}}});
  const json chosen = {{"rate", 0.25}, {"model", "mnist_cnn"}, {"nesterov", true}};
  CHECK(scalars["hparams"]["values"] == chosen);
  CHECK(scalars["hparams"]["names"] == json{"model", "nesterov", "rate"});
  CHECK(scalars["hparams"]["metrics"][0] == "val/accuracy_top1");
  CHECK(scalars["hparams"]["status"] == "STATUS_SUCCESS");
}
