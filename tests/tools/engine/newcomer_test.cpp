// What a newcomer types first, and what comes before anything that takes long.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <sstream>

#include "io/weights/safetensors.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"
#include "tools/machine/cores.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// Characters of the longest line of UTF-8.
size_t widest(const std::string& text) {
  size_t most = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    most = std::max(most, size_t(std::count_if(line.begin(), line.end(), [](unsigned char c) {
                      return (c & 0xC0) != 0x80;
                    })));
  return most;
}

}  // namespace

TEST_CASE("help fits 80 columns, names every choice, and comes by either word order") {
  const Outcome verbs = engine_cli("help"), train = engine_cli("help train");
  CHECK(verbs.code == 0);
  CHECK(verbs.out == engine_cli("--help").out);
  CHECK(widest(verbs.out) <= 80);
  CHECK(train.code == 0);
  CHECK(train.out == engine_cli("train --help").out);
  CHECK(widest(train.out) <= 80);
  for (const char* choices : {"adam, adamw, sgd, rmsprop;", "exponential, one-cycle, plateau;"})
    CHECK_MESSAGE(mentions(train.out, choices), choices);
  CHECK(mentions(engine_cli("help bench step").out, "engine bench step: "));
  CHECK(mentions(engine_cli("help bench").out, "bench kernels"));
  check_fails(engine_cli("help nothing"), 2, "unknown verb 'nothing'");
}

TEST_CASE("the manual page names every verb and flag, and man renders it without a warning") {
  const Outcome page = engine_cli("help --man");
  CHECK(page.code == 0);
  for (const char* there :
       {".SS engine train\n", ".SS engine bench step\n", ".SS engine finetune\n",
        "\\fB\\-\\-freeze\\-epochs\\fR", ".SH EXIT STATUS\n"})
    CHECK_MESSAGE(mentions(page.out, there), there);
  if (run_script("command -v man").code != 0) return note_skipped("no man(1)");
  const Outcome shown = run_script(
      "f=$(mktemp) && \"$engine\" help --man > \"$f\" && LC_ALL=C.UTF-8 man --warnings -l \"$f\" "
      "> /dev/null; rm \"$f\"");
  CHECK(shown.code == 0);
  CHECK_MESSAGE(shown.err.empty(), shown.err);
}

TEST_CASE("what peers call a flag or a model is taken for ours, or answered with it") {
  const Drawn drawn;
  const Outcome plan = engine_cli(fmt::format(
      "train --data {} --model MobileNet-V2 --imgsz 32 --bs 4 --lr0 0.1 --optim AdamW --wd 0.1 "
      "--device cpu --dry-run",
      drawn.set.string()));
  CHECK_MESSAGE(plan.code == 0, plan.err);
  CHECK(mentions(plan.out, "mobilenet_v2: 10 classes, 32 px"));
  CHECK(mentions(plan.out, "batch 4 x 1 rank"));
  check_fails(engine_cli("train --pretrained"), 2,
              "unknown flag --pretrained; here it is --weights imagenet");
  check_fails(engine_cli("train --amp"), 2, "unknown flag --amp; here it is --precision fp16");
  check_fails(engine_cli(fmt::format("train --data {} --model mnist_cnn --class-weights balanced "
                                     "--device cpu --out {}",
                                     drawn.set.string(), drawn.path("run"))),
              2, "the words it takes are none and auto");
}

TEST_CASE(
    "finetune chooses what is not given, tells it, and trains as the command that it prints") {
  const Drawn drawn;
  const std::string run = drawn.path("run");
  const std::string finetune =
      fmt::format("finetune {} --model mnist_cnn --device cpu --out {} ", drawn.set.string(), run);
  const Outcome plan = engine_cli(finetune + "--dry-run --epochs=3");
  CHECK_MESSAGE(plan.code == 0, plan.err);
  CHECK(mentions(plan.out, "plan 3 epochs"));
  CHECK(mentions(plan.err, "--batch-size 8"));
  CHECK(mentions(plan.err, "engine train --data"));
  CHECK(!mentions(plan.err, "  --epochs "));
  CHECK(!fs::exists(run));
  const Outcome side = engine_cli(finetune + "--dry-run --image-size 0");  // the model's
  CHECK_MESSAGE(side.code == 0, side.err);
  CHECK(mentions(side.out, "mnist_cnn: 10 classes, 28 px"));

  const Outcome trained = engine_cli(finetune + "--epochs 1");
  CHECK_MESSAGE(trained.code == 0, trained.err);
  const auto args = parse_json<nlohmann::json>(read(fs::path(run) / "args.json"));
  CHECK(args["batch_size"] == "8");
  CHECK(args["data"] == drawn.set.string());
  const std::string command = read(fs::path(run) / "command.txt");
  const std::string line = command.substr(command.find('\n') + 1);
  CHECK(line.starts_with("engine train --data " + drawn.set.string()));
  CHECK(mentions(trained.err, line));
  // It goes on with the run's flags, whichever verb is asked.
  const Outcome more = engine_cli("finetune --resume " + run + " --epochs 2");
  CHECK_MESSAGE(more.code == 0, more.err);
  CHECK(events(run, "epoch").size() == 2);

  const Outcome split = engine_cli(fmt::format(
      "finetune {}/train --model mnist_cnn --device cpu --dry-run", drawn.set.string()));
  CHECK_MESSAGE(split.code == 0, split.err);
  CHECK(mentions(split.err, "--split 0.8/0.2/0"));
  CHECK(widest(engine_cli("help finetune").out) <= 80);
  check_fails(engine_cli("finetune"), 2, "which images?");
  check_fails(engine_cli("finetune nowhere"), 3, "nowhere");
}

TEST_CASE("flags come from YAML, and the command line wins") {
  const Drawn drawn;
  const fs::path file = drawn.path("flags.yaml");
  write_text(file, fmt::format("# a recipe\ndata: {}\nmodel: mobilenet_v2\nimage-size: 32\n"
                               "batch_size: 4\ndevice: cpu\ndry_run: true\nlr: 1.0e-3\n",
                               drawn.set.string()));
  const Outcome plan = engine_cli(fmt::format("train --config {} --batch-size 5", file.string()));
  CHECK_MESSAGE(plan.code == 0, plan.err);
  CHECK(mentions(plan.out, "mobilenet_v2: 10 classes, 32 px"));
  CHECK(mentions(plan.out, "batch 5 x 1 rank"));
}

TEST_CASE("what does not fit, and weights of another shape, are told before images are cached") {
  const Drawn drawn;
  const std::string cache = drawn.path("cache"), out = drawn.path("run");
  const std::string train =
      fmt::format("train --data {} --out {} --cache disk --cache-dir {} --device cpu ",
                  drawn.set.string(), out, cache);
  const std::string large = "--model efficientnet_b7 --image-size 4096 --batch-size 64 ";
  check_fails(engine_cli(train + large), 6, "the largest batch that fits is");
  const Outcome plan = engine_cli(train + large + "--dry-run");
  CHECK(plan.code == 6);
  CHECK(mentions(plan.out, "memory per rank"));
  CHECK(mentions(plan.err, "does not fit: batch 30 at 4096 pixels needs"));
  CHECK(mentions(plan.err, "; with --memory lean it needs"));

  TensorFile file;
  file.tensors["features.0.0.weight"] = Tensor(DType::f32, {3, 3});
  write_safetensors(drawn.path("w.safetensors"), file);
  check_fails(engine_cli(train + "--model mobilenet_v2 --weights " + drawn.path("w.safetensors")),
              4, "does not fit the model");
  CHECK(!fs::exists(cache));
  CHECK(!fs::exists(out));
}

TEST_CASE("more ranks than cores are warned of") {
  const Drawn drawn;
  const std::string train = fmt::format(
      "train --data {} --model mobilenet_v2 --image-size 32 --batch-size 2 --device "
      "cpu --dry-run --ranks ",
      drawn.set.string());
  const std::string one_core = fmt::format("taskset -c {}", allowed_cores().front());
  const std::string warning = "2 ranks share the 1 cores here";
  CHECK(mentions(engine_cli(train + "2", one_core).err, warning));
  CHECK(!mentions(engine_cli(train + "1", one_core).err, "share"));
}
