// The program as scripts see it: exit codes, what goes to stdout and what to stderr.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "io/weights/safetensors.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;

namespace {

bool is_one_line(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n') == 1 && text.back() == '\n';
}

}  // namespace

TEST_CASE("help goes to stdout and is no failure") {
  for (const char* arguments : {"--help", "-h", "help", "weights --help", "draw --help",
                                "draw --nonsense --help", "version --help"}) {
    CAPTURE(arguments);
    const Outcome outcome = engine_cli(arguments);
    CHECK(outcome.code == 0);
    CHECK(outcome.out.find("usage: engine") != std::string::npos);
    CHECK(outcome.err.empty());
  }
}

TEST_CASE("wrong usage is one line on stderr and exit code 2") {
  for (const char* arguments :
       {"", "trian", "weights", "weights verfy", "version --jsn", "version extra", "draw",
        "draw digits", "draw digits --out x --train 0", "draw digits --out x --train"}) {
    CAPTURE(arguments);
    const Outcome outcome = engine_cli(arguments);
    CHECK(outcome.code == 2);
    CHECK(outcome.out.empty());
    CHECK(is_one_line(outcome.err));
    CHECK(outcome.err.starts_with("engine"));
  }
  CHECK(engine_cli("versoin").err == "engine: unknown verb 'versoin', did you mean version?\n");
  CHECK(engine_cli("version --jsn").err ==
        "engine version: unknown flag --jsn, did you mean --json?\n");
}

TEST_CASE("version prints the build for people and as JSON") {
  CHECK(engine_cli("version").out.starts_with("engine "));
  CHECK(engine_cli("--version").out == engine_cli("version").out);
  const auto json = parse_json<nlohmann::json>(engine_cli("version --json").out);
  CHECK(json["git"].is_string());
  CHECK(json["libraries"]["oneDNN"].is_string());
  CHECK(!json.contains("gpus"));
  const Outcome all = engine_cli("version --all --json");  // answers where there is no CUDA, too
  CHECK(all.code == 0);
  CHECK(parse_json<nlohmann::json>(all.out)["gpus"].is_array());
}

// What bash offers for the last of `words`, sourcing the script as users do.
std::string completed(const std::string& words) {
  const std::string script =
      "source <(" ENGINE_PROGRAM " completion bash); COMP_WORDS=(engine " + words +
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _engine; echo ${COMPREPLY[*]}";
  const TemporaryFolder folder;
  const std::string out = folder.path() / "out", file = folder.path() / "script";
  std::ofstream(file) << script;
  REQUIRE(std::system(fmt::format("bash {} >{}", file, out).c_str()) == 0);
  return read(out);
}

TEST_CASE("bash completes verbs, flags, values and files") {
  CHECK(completed("tra") == "train\n");
  CHECK(completed("bench ker") == "kernels\n");
  CHECK(completed("version --js") == "--json\n");
  CHECK(completed("bench step --device ref") == "reference\n");
  CHECK(completed("train --device = cu") == "cuda\n");
  CHECK(completed("train --batch-size ''") == "\n");
  CHECK(completed("weights verify " ENGINE_SOURCE_DIR "/CMakeL") == ENGINE_SOURCE_DIR
        "/CMakeLists.txt\n");
}

bool has_program(const char* name) {
  return std::system(fmt::format("command -v {} >/dev/null 2>&1", name).c_str()) == 0;
}

// What fish offers, a line each, without its explanations.
std::string offered_by_fish(const std::string& line) {
  const TemporaryFolder folder;
  const std::string out = folder.path() / "out", file = folder.path() / "script";
  std::ofstream(file) << ENGINE_PROGRAM " completion fish | source\ncomplete -C '" << line << "'\n";
  REQUIRE(std::system(fmt::format("fish --no-config {} | cut -f1 >{}", file, out).c_str()) == 0);
  return read(out);
}

TEST_CASE("fish completes verbs, flags, values and files") {
  if (!has_program("fish")) return note_skipped("no fish");
  CHECK(offered_by_fish("engine tra") == "train\n");
  CHECK(offered_by_fish("engine bench ker") == "kernels\n");
  CHECK(offered_by_fish("engine train --model-e") == "--model-ema-decay\n");
  CHECK(offered_by_fish("engine train --model densenet2") == "densenet201\n");
  CHECK(offered_by_fish("engine train --device=cu") == "--device=cuda\n");
  CHECK(offered_by_fish("engine weights verify " ENGINE_SOURCE_DIR "/CMakeL") == ENGINE_SOURCE_DIR
        "/CMakeLists.txt\n");
}

// The line that zsh makes of `line` when Tab is pressed at a prompt. Ctrl-X shows it.
std::string completed_by_zsh(const std::string& line) {
  const TemporaryFolder folder;
  const std::string out = folder.path() / "out", inner = folder.path() / "inner",
                    file = folder.path() / "script";
  std::ofstream(inner) << "autoload -Uz compinit; compinit -u -D\n"
                          "source <(" ENGINE_PROGRAM
                          " completion zsh)\n"
                          "show() { print -rn -- \"<<$BUFFER>>\" }\n"
                          "zle -N show; bindkey '^X' show; print READY\n";
  std::ofstream(file) << fmt::format(
      "zmodload zsh/zpty\nzpty -b z 'TERM=dumb zsh -f -i'\nzpty -w z 'source {}'\n"
      "zpty -r -m z text '*READY*'\nzpty -w -n z '{}'$'\\t\\x18'\n"
      "zpty -r -m z text '*<<*>>*'\nprint -r -- ${{${{text##*<<}}%%>>*}}\n",
      inner, line);
  REQUIRE(std::system(fmt::format("timeout 60 zsh -f {} >{}", file, out).c_str()) == 0);
  return read(out);
}

TEST_CASE("zsh completes verbs, flags, values and files") {
  if (!has_program("zsh")) return note_skipped("no zsh");
  CHECK(completed_by_zsh("engine tra") == "engine train \n");
  CHECK(completed_by_zsh("engine bench ker") == "engine bench kernels \n");
  CHECK(completed_by_zsh("engine train --model-e") == "engine train --model-ema-decay=\n");
  CHECK(completed_by_zsh("engine train --model densenet2") ==
        "engine train --model densenet201 \n");
  CHECK(completed_by_zsh("engine train --device=cu") == "engine train --device=cuda \n");
  CHECK(completed_by_zsh("engine weights verify " ENGINE_SOURCE_DIR "/CMakeL") ==
        "engine weights verify " ENGINE_SOURCE_DIR "/CMakeLists.txt \n");
}

TEST_CASE("every shell gets a script with every verb") {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = engine_cli(fmt::format("completion {}", shell)).out;
    for (const char* word : {"train", "summary", "verify", "batch-size", "reference"})
      CHECK_MESSAGE(script.find(word) != std::string::npos, shell << ": " << word);
  }
  CHECK(engine_cli("completion tcsh").code == 2);
}

TEST_CASE("a config file stands for flags") {
  const TemporaryFolder folder;
  const std::string config = folder.path() / "args.json";
  std::ofstream(config) << R"({"json": true})";
  CHECK(engine_cli("version --config " + config).out.starts_with("{"));
  CHECK(engine_cli("version --json=false --config " + config).out.starts_with("engine "));
  std::ofstream(config) << R"({"jsno": true})";
  CHECK(engine_cli("version --config " + config).err ==
        fmt::format("engine version: --config {}: no such flags here: jsno\n", config));
}

TEST_CASE("colours are shown when asked for, and on terminals") {
  const auto red = [](const std::string& shell) {
    const TemporaryFolder folder;
    const std::string out = folder.path() / "out";
    const int status = std::system(fmt::format("{} >{} 2>&1", shell, out).c_str());
    CHECK(status != -1);
    return read(out).find("\x1b[31m") != std::string::npos;
  };
  const std::string none = "env -u NO_COLOR -u CLICOLOR_FORCE TERM=xterm ",
                    program = ENGINE_PROGRAM;
  const std::string wrong = program + " convert --color {} none.pth x";
  const auto with = [&](const char* when) { return fmt::format(fmt::runtime(wrong), when); };
  CHECK(!red(none + with("auto")));
  CHECK(red(none + with("always")));
  CHECK(red(none + "CLICOLOR_FORCE=1 " + with("auto")));
  CHECK(!red(none + "CLICOLOR_FORCE=1 " + with("never")));
  if (std::system("script -qec true /dev/null >/dev/null 2>&1") != 0)
    return note_skipped("no script(1) to make a terminal");
  const auto live = [&](const std::string& before, const char* when) {
    return red(fmt::format("{}{} script -qec '{}' /dev/null", none, before, with(when)));
  };
  CHECK(live("", "auto"));
  CHECK(!live("NO_COLOR=1", "auto"));
  CHECK(!live("TERM=dumb", "auto"));
  CHECK(!live("", "never"));
}

TEST_CASE("a dry run says what a training needs and leaves nothing behind") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set", out = folder.path() / "run";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 3 --val 1", set)).code == 0);
  const Outcome plan =
      engine_cli(fmt::format("train --data {} --out {} --model mnist_cnn --batch-size 8 --epochs 2 "
                             "--device cpu --dry-run",
                             set, out));
  CHECK(plan.code == 0);
  CHECK(!std::filesystem::exists(out));
  for (const char* part : {"1199882 parameters", "30 training and 10 validation images",
                           "4 steps per epoch, 8 steps in all; batch 8 x 1 rank on cpu in fp32",
                           "  total ", " img/s training", " per epoch"})
    CHECK_MESSAGE(plan.out.find(part) != std::string::npos, part << " in " << plan.out);
}

TEST_CASE("a summary tells what lean memory saves and what it moves") {
  const std::string summary = "summary --model mobilenet_v2 --batch-size 32 ";
  const auto total = [&](const std::string& memory) {
    const Outcome outcome = engine_cli(summary + "--json --memory " + memory);
    CHECK(outcome.code == 0);
    const auto json = parse_json<nlohmann::json>(outcome.out);
    CHECK(json.contains("recomputed") == (memory == "lean"));
    return json.at("memory_mib").at("total").get<double>();
  };
  CHECK(total("lean") < 0.9 * total("fast"));
  CHECK(mentions(engine_cli(summary + "--memory lean").out, "outputs are computed again"));
  CHECK(!mentions(engine_cli(summary).out, "computed again"));
}

TEST_CASE("the range test writes its losses, and tells no rate where they did not fall") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set", out = folder.path() / "run";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 3 --val 1", set)).code == 0);
  const Outcome test =
      engine_cli(fmt::format("train --data {} --out {} --model mnist_cnn --batch-size 4 --lr-find "
                             "--lr-find-steps 10 --device cpu",
                             set, out));
  CHECK(test.code == 0);
  CHECK(test.err.find("too little to tell a rate") != std::string::npos);
  std::ifstream file(out + "/lr_find.csv");
  std::vector<std::string> rows;
  for (std::string row; std::getline(file, row);) rows.push_back(row);
  REQUIRE(rows.size() == 11);
  CHECK(rows[0] == "step,lr,loss,smoothed_loss");
  CHECK(rows[1].starts_with("0,1e-07,"));
  CHECK(rows[10].starts_with("9,10,"));
}

TEST_CASE("a mistake is one line that names what is wrong, and how much") {
  const TemporaryFolder folder;
  const std::filesystem::path& at = folder.path();
  const std::string set = at / "set", run = at / "run";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 2 --val 1", set)).code == 0);
  const std::string train = "train --model mnist_cnn --device cpu --cache none --epochs 1 ";
  REQUIRE(engine_cli(fmt::format("{} --data {} --out {}", train, set, run)).code == 0);
  const std::string weights = run + "/weights/best.safetensors",
                    checkpoint = run + "/ckpt/step_00000001.safetensors";
  for (const char* part : {"train", "val"}) {
    std::filesystem::create_directories(at / "one" / part);
    std::filesystem::copy(set + "/" + part + "/3", at / "one" / part / "3");
    std::filesystem::create_directories(at / "two" / part);
    for (const char* name : {"0", "3"})
      std::filesystem::copy(set + "/" + part + "/" + name, at / "two" / part / name);
  }
  std::filesystem::create_directory(at / "empty");
  const auto fails = [&](const std::string& arguments, Failure kind, const std::string& message) {
    const Outcome outcome = engine_cli(arguments);
    CHECK(outcome.code == static_cast<int>(kind));
    CHECK(mentions(outcome.err, message));
    CHECK(!std::filesystem::exists(at / "none"));  // nothing is left behind
  };
  const std::string anew = train + "--out " + (at / "none").string() + " ",
                    good = anew + "--data " + set + " ";
  fails(anew + "--data " + (at / "empty").string(), Failure::data, "no train folder in it");
  fails(anew + "--data " + (at / "one").string(), Failure::data, "all of one class, \"3\"");
  fails(good + "--resume " + (at / "empty").string(), Failure::usage,
        "no checkpoint ckpt/step_… in it");
  fails(good + "--resume " + weights, Failure::weights, "--weights begins with weights alone");
  fails(good + "--weights " + checkpoint, Failure::usage, "are in " + run + "/weights");
  fails(good + "--model mobilenet_v2 --weights " + weights, Failure::usage, "holds mnist_cnn");
  fails(good + "--progressive-size 14:28", Failure::usage,
        "fc1.weight of mnist_cnn is [128, 1600] first and [128, 9216] last");
  fails(good + "--freeze conv3", Failure::usage, "--freeze conv3: no parameter has a name");
  fails(good + "--precision fp17", Failure::usage, "--precision fp17: known are");
  fails(good + "--out " + run, Failure::usage, "not empty");

  const std::string onward = train + "--resume auto --out " + run + " ";
  fails(onward + "--data " + (at / "two").string(), Failure::data,
        "2 against 10, and number 1 is \"3\", not \"1\"");
  fails(onward + "--data " + set + " --model densenet121", Failure::usage,
        "--model densenet121: the run to resume trains mnist_cnn");
  fails(fmt::format("eval --device cpu --data {} --weights {} --out {}", set, weights, run),
        Failure::usage, "the folder of a training run");
  fails("bench", Failure::usage, "engine bench --help lists them");
  fails("doctor --x", Failure::usage, "unknown flag --x\n");
}

TEST_CASE("a batch is at most what a rank has of the images") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 1 --val 1", set)).code == 0);
  const Outcome plan = engine_cli(fmt::format(
      "train --data {} --model mnist_cnn --device cpu --ranks 3 --batch-size 64 --dry-run", set));
  CHECK(mentions(plan.err, "batch size 64: with 10 training images it is 4"));
  CHECK(mentions(plan.out, "1 steps per epoch, 10 steps in all; batch 4 x 3 ranks"));
}

TEST_CASE("the inference benchmark doubles the batch and reports each") {
  const Outcome bench = engine_cli(
      "bench inference --model mnist_cnn --most 4 --steps 3 --warmup 1 --device cpu --json");
  CHECK(bench.code == 0);
  std::istringstream lines(bench.out);
  std::vector<int> batches;
  for (std::string line; std::getline(lines, line);) {
    const auto json = parse_json<nlohmann::json>(line);
    batches.push_back(json["batch_size"]);
    CHECK(json["precision"] == "fp32");
    CHECK(json["ms_median"] > 0.);
    CHECK(json["ms_p90"] >= json["ms_median"]);
    CHECK(json["memory_planned_mib"] > 0.);
    CHECK(json["samples_ms"].size() == 3);
  }
  CHECK(batches == std::vector<int>{1, 2, 4});
  CHECK(engine_cli("bench inference --least 8 --most 4").code == 2);
}

TEST_CASE("predictions come as text, JSON or CSV, with their costs on stderr") {
  const TemporaryFolder folder;
  const std::string set = folder.path() / "set", out = folder.path() / "run";
  REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 2 --val 1", set)).code == 0);
  REQUIRE(engine_cli(fmt::format("train --data {} --out {} --model mnist_cnn --batch-size 4 "
                                 "--epochs 1 --device cpu",
                                 set, out))
              .code == 0);
  const std::string weights = out + "/weights/last.safetensors", image = set + "/train/3/00000.png",
                    odd = folder.path() / "a,\"b.png";
  std::filesystem::copy(image, odd);
  const std::string arguments =
      fmt::format("predict --device cpu --weights {} {} '{}' ", weights, image, odd);
  const Outcome csv = engine_cli(arguments + "--csv"), json = engine_cli(arguments + "--json");
  REQUIRE(json.code == 0);
  const auto first = parse_json<nlohmann::json>(json.out.substr(0, json.out.find('\n')));
  CHECK(first["logits"].size() == 10);
  const std::string rest =
      fmt::format("{},{},{:.6f}\n", first["class"].get<std::string>(),
                  first["class_index"].get<int>(), first["probability"].get<double>());
  std::string quoted = odd;
  quoted.replace(quoted.find('"'), 1, "\"\"");
  CHECK(csv.out == fmt::format("path,class,class_index,probability\n{},{}\"{}\",{}", image, rest,
                               quoted, rest));
  for (const Outcome* outcome : {&csv, &json}) {
    CHECK(outcome->err.find("latency of a batch of 16: median ") != std::string::npos);
    CHECK(outcome->err.find(" MiB planned, ") != std::string::npos);
  }
  CHECK(engine_cli(arguments + "--csv --json").code == 2);

  const std::string onnx = folder.path() / "model.onnx";
  const Outcome exported = engine_cli(fmt::format("export {} --onnx {}", weights, onnx));
  CHECK(exported.code == 0);
  CHECK(is_one_line(exported.err));
  CHECK(read(onnx).find("[\"0\",\"1\",\"2\"") != std::string::npos);  // the classes
  CHECK(engine_cli(fmt::format("export {} --onnx /nowhere/x", weights)).code != 0);
}

TEST_CASE("output that cannot be written is a failure") {
  const std::string shell = ENGINE_PROGRAM " version --json >/dev/full 2>/dev/null";
  CHECK(WEXITSTATUS(std::system(shell.c_str())) == 1);
}

TEST_CASE("a drawn set is where it was asked for, and never overwritten") {
  const TemporaryFolder folder;
  const std::string arguments =
      fmt::format("draw digits --out {} --train 2 --val 1", (folder.path() / "set").string());
  const Outcome drawn = engine_cli(arguments), again = engine_cli(arguments);
  CHECK(drawn.code == 0);
  CHECK(drawn.out.empty());
  CHECK(std::filesystem::exists(folder.path() / "set" / "train" / "9" / "00001.png"));
  CHECK(again.code == 2);
}

TEST_CASE("weights are converted and verified") {
  const TemporaryFolder folder;
  const std::string in = folder.path() / "in.safetensors", out = folder.path() / "out.safetensors";
  TensorFile file;
  file.tensors["module.features.denseblock1.denselayer1.norm.1.weight"] = Tensor(DType::f32, {3});
  file.tensors["module.classifier.weight"] = Tensor(DType::f32, {2, 3});
  write_safetensors(in, file);

  const Outcome converted = engine_cli(fmt::format("convert {} {}", in, out));
  CHECK(converted.code == 0);
  CHECK(converted.err == out + ": 2 tensors, 9 parameters\n");
  const TensorFile read_back = read_safetensors(out);
  CHECK(read_back.tensors.contains("features.denseblock1.denselayer1.norm1.weight"));
  CHECK(read_back.tensors.contains("classifier.weight"));

  CHECK(engine_cli("weights verify " + out).code == 0);
  const std::string named = folder.path() / "densenet121-a639ec97.pth";
  std::filesystem::copy(out, named);
  const Outcome other = engine_cli("weights verify " + named);
  CHECK(other.code == 8);
  CHECK(other.out.find("not as published") != std::string::npos);
  std::filesystem::resize_file(out, std::filesystem::file_size(out) - 1);
  CHECK(engine_cli("weights verify " + out).code == 4);
  CHECK(engine_cli(fmt::format("convert {} {}", out, named)).code == 4);
  CHECK(engine_cli(fmt::format("convert {0}/none.pth {0}/x", folder.path().string())).code == 4);
  CHECK(!std::filesystem::exists(folder.path() / "x"));
}
