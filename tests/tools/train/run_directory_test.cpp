#include "tools/train/run_directory.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <vector>

#include "engine/error.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct EpochsOption {
  int epochs = 3;
  void visit(auto& v) { v("--epochs", epochs, "times through the data"); }
};

std::vector<std::string> lines(const fs::path& file) {
  std::ifstream in(file);
  std::vector<std::string> result;
  for (std::string line; std::getline(in, line);) result.push_back(line);
  return result;
}

RunDirectory make_run(const fs::path& out, bool resume = false) {
  RunDirectory run = RunDirectory::create(RunLock::take(out, "mnist_cnn", resume));
  run.keep();
  return run;
}

// Two steps an epoch, then its results.
void train(RunDirectory& run, int first_epoch, int last_epoch) {
  for (int epoch = first_epoch; epoch <= last_epoch; ++epoch) {
    for (int step = 2 * epoch - 1; step <= 2 * epoch; ++step)
      run.log("step", {{"epoch", epoch}, {"step", step}, {"loss", 1.0 / step}});
    run.log_epoch(
        {.epoch = epoch,
         .seconds = 10.0 * epoch,
         .train_loss = 0.5,
         .val_loss = 0.25,
         .top1 = 0.75,
         .top5 = 1,
         .auc_macro = 0.9,
         .lr = 1e-3,
         .step = 2 * epoch,
         .images_per_second = 200,
         .wait_share = 0.01,
         .use = {.process_cores = 1.5, .host_cpu = 0.5, .memory_gib = 2, .seconds = 9.5}});
  }
}

}  // namespace

TEST_CASE("a new folder is made, with a place for weights") {
  const TemporaryFolder folder;
  const RunDirectory run = make_run(folder.path() / "a" / "b");
  CHECK(run.path() == folder.path() / "a" / "b");
  CHECK(run.weights("best") == run.path() / "weights" / "best.safetensors");
  CHECK(fs::is_directory(run.weights("best").parent_path()));
}

TEST_CASE("what the run was made with is written down") {
  const TemporaryFolder folder;
  RunDirectory run = make_run(folder.path());
  EpochsOption options;
  run.write_args(Flags(options));
  run.write_environment({{"devices", {"GPU A", "GPU B"}}, {"driver", "1.2"}});
  run.write_classes(std::vector<std::string>{"cat", "dog with spaces"});
  run.write_algorithms({{"features.0 forward", "engine 3"}});

  CHECK(parse_json<json>(read(run.path() / "args.json")) == json{{"epochs", 3}});
  options.epochs = 4;
  run.write_args(Flags(options));
  CHECK(parse_json<json>(read(run.path() / "args.json")) == json{{"epochs", 3}});
  CHECK(parse_json<json>(read(run.path() / "args-2.json")) == json{{"epochs", 4}});
  const json environment = parse_json<json>(read(run.path() / "env.json"));
  for (const char* key : {"engine", "git", "host", "os", "cpu", "cores", "started"})
    CHECK(environment.contains(key));
  CHECK(environment["cores"] >= 1);
  CHECK(environment["libraries"]["OpenCV"].is_string());
  CHECK(environment["devices"][1] == "GPU B");
  CHECK(read(run.path() / "classes.txt") == "cat\ndog with spaces\n");
  CHECK(parse_json<json>(read(run.path() / "algorithms.json"))["features.0 forward"] == "engine 3");
  for (const auto& entry : fs::directory_iterator(run.path()))
    CHECK(entry.path().extension() != ".part");
}

TEST_CASE("events and rows have the names that other tools read") {
  const TemporaryFolder folder;
  RunDirectory run = make_run(folder.path());
  train(run, 1, 1);
  const std::vector<std::string> events = lines(run.path() / "metrics.jsonl");
  REQUIRE(events.size() == 3);
  const json step = parse_json<json>(events[1]), epoch = parse_json<json>(events[2]);
  CHECK(step["event"] == "step");
  CHECK(step["schema"] == 1);
  CHECK(step["loss"] == 0.5);
  CHECK(step["time"].get<std::string>().size() == std::string("2025-03-01T12:34:56.789Z").size());
  CHECK(epoch["event"] == "epoch");
  CHECK(epoch["top1"] == 0.75);
  CHECK(read(run.path() / "results.csv") ==
        "epoch,time,train/loss,metrics/accuracy_top1,metrics/accuracy_top5,val/loss,lr/pg0,"
        "metrics/auc_macro,step,images_per_second,wait_share,cpu/cores,cpu/host,cpu/memory_gib,"
        "gpu/utilisation,gpu/memory_gib,gpu/watts,gpu/celsius,gpu/energy_joules,epoch_seconds\n"
        "1,10.000,0.5,0.75,1,0.25,0.001,0.9,2,200,0.01,1.5,0.5,2,nan,nan,nan,nan,nan,9.5\n");
  CHECK(epoch["cpu/cores"] == 1.5);
  CHECK_FALSE(epoch.contains("gpu/watts"));
}

TEST_CASE("what a GPU does is in the row and the event of its epoch") {
  const TemporaryFolder folder;
  RunDirectory run = make_run(folder.path());
  run.log_epoch({.epoch = 1, .use = {.seconds = 10, .gpu = GpuReading{0.97, 23.5, 412, 61, 4120}}});
  CHECK(lines(run.path() / "results.csv")[1].ends_with(",0.97,23.5,412,61,4120,10"));
  const json event = parse_json<json>(lines(run.path() / "metrics.jsonl")[0]);
  CHECK(event["gpu/watts"] == 412);
  CHECK(event["gpu/energy_joules"] == 4120);
  CHECK(event["epoch_seconds"] == 10);
  run.log_epoch({.epoch = 2, .use = {.gpu = GpuReading{0.97, 23.5, 0, 61, 0}}});
  CHECK(lines(run.path() / "results.csv")[2].ends_with(",0,61,nan,0"));  // no energy is told
}

TEST_CASE("a step's numbers are an event, and the command can be given to a shell again") {
  const TemporaryFolder folder;
  RunDirectory run = make_run(folder.path());
  run.log_step(1, 7, {{"loss", 0.5}, {"overflow", true}, {"lr", 0.25}});
  const json event = parse_json<json>(lines(run.path() / "metrics.jsonl")[0]);
  CHECK(event["event"] == "step");
  CHECK(event["step"] == 7);
  CHECK(event["lr"] == 0.25);

  run.write_command({"train", "", {"--data", "my images", "--out", "it's", "--lr=1e-3", ""}});
  const std::string first = read(run.path() / "command.txt");
  CHECK(first.starts_with("cd /"));
  CHECK(first.ends_with("\nengine train --data 'my images' --out 'it'\\''s' --lr=1e-3 ''\n"));
  run.write_command({"train", "", {"--resume", "auto"}});
  CHECK(read(run.path() / "command.txt") == first);
  CHECK(read(run.path() / "command-2.txt").ends_with("\nengine train --resume auto\n"));
  run.note("epoch 1: fine");
  CHECK(lines(run.path() / "log.txt")[0].ends_with("Z epoch 1: fine"));
}

TEST_CASE("a loss that is not finite and an area that is not defined are logged as such") {
  const TemporaryFolder folder;
  RunDirectory run = make_run(folder.path());
  run.log_epoch({.epoch = 1, .train_loss = NAN});
  CHECK(lines(run.path() / "results.csv")[1] ==
        "1,0.000,nan,0,0,0,0,nan,0,0,0,0,0,0,nan,nan,nan,nan,nan,0");
  const json event = parse_json<json>(lines(run.path() / "metrics.jsonl")[0]);
  CHECK(event["train_loss"].is_null());
  CHECK(event["auc_macro"].is_null());
}

TEST_CASE("a resumed run has the lines of one that was never stopped") {
  const TemporaryFolder folder;
  {
    RunDirectory run = make_run(folder.path() / "whole");
    train(run, 1, 4);
  }
  {
    RunDirectory run = make_run(folder.path() / "stopped");
    run.log("warning", {{"text", "no step"}});
    train(run, 1, 3);
    std::ofstream(run.path() / "metrics.jsonl", std::ios::app)
        << "{\"event\": \"st";  // killed while writing
    std::ofstream(run.path() / "results.csv", std::ios::app) << "4,40.0";
  }
  RunDirectory run = make_run(folder.path() / "stopped", true);
  run.continue_after(2, 4);
  train(run, 3, 4);
  CHECK(read(run.path() / "results.csv") == read(folder.path() / "whole" / "results.csv"));

  std::vector<std::string> events = lines(run.path() / "metrics.jsonl");
  CHECK(parse_json<json>(events[0])["event"] == "warning");
  events.erase(events.begin());
  const std::vector<std::string> expected = lines(folder.path() / "whole" / "metrics.jsonl");
  REQUIRE(events.size() == expected.size());
  for (size_t i = 0; i < events.size(); ++i) {
    json ours = parse_json<json>(events[i]), theirs = parse_json<json>(expected[i]);
    ours.erase("time"), theirs.erase("time");
    CHECK(ours == theirs);
  }
}

TEST_CASE("a run resumed within an epoch keeps the steps of that epoch up to its checkpoint") {
  const TemporaryFolder folder;
  RunDirectory run = make_run(folder.path());
  train(run, 1, 2);
  run.continue_after(1, 3);
  const std::vector<std::string> events = lines(run.path() / "metrics.jsonl");
  REQUIRE(events.size() == 4);  // two steps and the results of epoch 1, the first step of epoch 2
  CHECK(parse_json<json>(events[3])["step"] == 3);
  CHECK(lines(run.path() / "results.csv").size() == 2);
}
