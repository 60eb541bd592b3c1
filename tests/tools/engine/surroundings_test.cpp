// What surrounds the program and is none of its doing: streams that are closed or full, names of
// any bytes, paths that lead nowhere, another run in the same folder, signals, long runs.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "io/images/draw.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// Ten classes of digits, and runs beside them.
struct DigitRuns {
  TemporaryFolder folder;
  fs::path set = folder.path() / "set";

  DigitRuns() {
    draw_dataset(set, DrawnSet::digits, {.train_per_class = 2, .validation_per_class = 1});
  }

  fs::path operator/(const std::string& name) const { return folder.path() / name; }
  std::string train(const std::string& out, const std::string& more = "") const {
    return fmt::format(
        "train --data '{}' --out '{}' --model mnist_cnn --image-size 12 --batch-size 8 --epochs 1 "
        "--device cpu "
        "--threads 1 --workers 1 --cache none {}",
        set.string(), (folder.path() / out).string(), more);
  }
};

struct Shell {
  int code = -1;
  std::string err;
};

// Runs bash lines in which $engine is the program and $folder a place for files.
Shell shell(const fs::path& folder, const std::string& lines) {
  const fs::path script = folder / "script.sh", err = folder / "err";
  write_text(script,
             fmt::format("engine={}\nfolder='{}'\n{}\n", ENGINE_PROGRAM, folder.string(), lines));
  const int status = std::system(
      fmt::format("bash '{}' >/dev/null 2>'{}'", script.string(), err.string()).c_str());
  return {WEXITSTATUS(status), read(err)};
}

// Lines of a run in the background, up to its first checkpoint.
std::string begin(const std::string& arguments, const fs::path& run) {
  return fmt::format(
      "\"$engine\" {} & pid=$!\n"
      "until compgen -G '{}/ckpt/*.safetensors' >/dev/null; do\n"
      "  kill -0 $pid || exit 99\n  sleep 0.01\ndone\n",
      arguments, run.string());
}

std::vector<std::string> lines_of(const fs::path& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("a run whose standard streams are closed writes nothing else into its files") {
  const DigitRuns digits;
  CHECK(
      shell(digits.folder.path(), "exec \"$engine\" " + digits.train("run", "<&- >&- 2>&-")).code ==
      0);
  const auto rows = lines_of(digits / "run/results.csv");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].starts_with("epoch,"));
  CHECK(rows[1].starts_with("1,"));
  for (const std::string& line : lines_of(digits / "run/metrics.jsonl"))
    CHECK(json_or_null<json>(line).is_object());
}

TEST_CASE("a run goes on where nobody can hear it") {
  const DigitRuns digits;
  CHECK(
      shell(digits.folder.path(), "exec \"$engine\" " + digits.train("full", "2>/dev/full")).code ==
      0);
  CHECK(shell(digits.folder.path(), "{ \"$engine\" " + digits.train("pipe") +
                                        " 2>&1 >/dev/null; echo $? >\"$folder/code\"; } | true")
            .code == 0);
  CHECK(read(digits / "code") == "0\n");
}

TEST_CASE("output that cannot be written is an error, unless its reader has seen enough") {
  const TemporaryFolder folder;
  const Shell full = shell(folder.path(), "exec \"$engine\" version >/dev/full");
  CHECK(full.code == 1);
  CHECK(mentions(full.err, "cannot write to stdout: No space left"));
  const Shell closed = shell(folder.path(), "\"$engine\" --help | true");
  CHECK(closed.code == 0);
  CHECK(closed.err.empty());
}

TEST_CASE("a limit on the size of files is an error that names the file") {
  const DigitRuns digits;
  const Shell limited =
      shell(digits.folder.path(), "ulimit -f 500; exec \"$engine\" " + digits.train("run"));
  CHECK(limited.code == 3);
  CHECK(mentions(limited.err, ".safetensors: cannot write"));
  CHECK(mentions(limited.err, "File too large"));
}

TEST_CASE("names that are not UTF-8 train, and come back from every file of the run") {
  const DigitRuns digits;
  fs::rename(digits.set / "train/0", digits.set / "train/caf\xE9");
  fs::rename(digits.set / "train/1/00000.png", digits.set / "train/1/\xFF, \"x\".png");
  const std::string flags =
      fmt::format("--data '{}/train' --split 0.5/0.5 --stratify ", digits.set.string());
  const Outcome first = engine_cli(digits.train("r\xE8un", flags));
  REQUIRE_MESSAGE(first.code == 0, first.err);
  const fs::path run = digits / "r\xE8un";
  CHECK(mentions(read(run / "classes.txt"), "\ncaf\xE9\n"));

  const Outcome again = engine_cli(fmt::format("train --config '{}/args.json' --out '{}'",
                                               run.string(), (digits / "again").string()));
  REQUIRE_MESSAGE(again.code == 0, again.err);
  CHECK(last_state(digits / "again") == last_state(run));
  CHECK(read(digits / "again/split.csv") == read(run / "split.csv"));

  const std::string weights = (run / "weights/best.safetensors").string();
  const Outcome scored = engine_cli(fmt::format(
      "eval --weights '{}' --data '{}/train' --split-file '{}/split.csv' --device cpu --json",
      weights, digits.set.string(), run.string()));
  REQUIRE_MESSAGE(scored.code == 0, scored.err);
  const json scores = parse_json<json>(scored.out),
             of_run = parse_json<json>(read(run / "metrics.json"));
  CHECK(scores["top1"] == of_run["val"]["top1"]);
  CHECK(of_run["val"]["classes"][9]["name"] == "caf\uEFE9");

  const Outcome predicted = engine_cli(fmt::format(
      "predict '{}/train/1/'*x* --weights '{}' --device cpu --json", digits.set.string(), weights));
  REQUIRE_MESSAGE(predicted.code == 0, predicted.err);
  CHECK(parse_json<json>(predicted.out)["path"].get<std::string>().ends_with("\uEFFF, \"x\".png"));
}

TEST_CASE("paths that lead nowhere are named, with the code of what they are for") {
  const DigitRuns digits;
  const std::string far = (digits / std::string(300, 'x')).string(), loop = (digits / "l").string(),
                    deep = (digits / "deep.json").string(), set = digits.set.string();
  fs::create_symlink("l", loop);
  write_text(deep, "{\"data\": " + std::string(200'000, '[') + std::string(200'000, ']') + "}");
  for (const std::string& path : {far, loop}) {
    const std::pair<std::string, int> cases[] = {
        {"train --data " + path + " --device cpu", 3},
        {"train --labels " + path + " --device cpu", 3},
        {digits.train("run", "--resume " + path), 2},
        {"train --data " + set + " --device cpu --model mnist_cnn --out " + path, 2},
        {digits.train("run", "--weights " + path), 4},
        {"check-data " + path, 3},
        {"predict " + set + "/val/0/00000.png --weights " + path, 4},
        {"draw digits --out " + path, 2},
        {"convert " + path + " " + set + "/out.safetensors", 4},
        {"export " + path + " --onnx " + set + "/out.onnx", 4},
        {"version --config " + path, 2}};
    for (const auto& [arguments, code] : cases) {
      CAPTURE(arguments);
      const Outcome outcome = engine_cli(arguments);
      CHECK(outcome.code == code);
      CHECK(mentions(outcome.err, path));
    }
  }
  check_fails(engine_cli("version --config " + set), 2, "--config " + set + ": a folder");
  check_fails(engine_cli("version --config " + deep), 2, "nests deeper than lists of values");
  check_fails(engine_cli("version --config /dev/zero"), 2, "--config /dev/zero: more than ");
  CHECK_FALSE(fs::exists(digits / "run"));
}

TEST_CASE("a start that fails leaves the folder that it was given, and links, as they are") {
  const DigitRuns digits;
  fs::create_directory(digits / "own");
  fs::create_directory_symlink("own", digits / "link");
  const std::string wrong = "train --data /nowhere --model mnist_cnn --device cpu --out ";
  CHECK(engine_cli(wrong + (digits / "own").string()).code == 3);
  CHECK(engine_cli(wrong + (digits / "link").string()).code == 3);
  CHECK(shell(digits.folder.path(), "cd \"$folder/own\"; \"$engine\" " + wrong + ".").code == 3);
  CHECK(fs::is_empty(digits / "own"));
  CHECK(fs::is_symlink(digits / "link"));

  REQUIRE(engine_cli(digits.train("link")).code == 0);
  CHECK(fs::exists(digits / "own/results.csv"));
  fs::create_symlink("converted", digits / "out");
  REQUIRE(
      engine_cli(fmt::format("convert {} {}", (digits / "own").string(), (digits / "out").string()))
          .code == 0);
  CHECK(fs::is_symlink(digits / "out"));
  CHECK(fs::is_regular_file(digits / "converted"));
}

TEST_CASE("a second run in a folder is refused while the first goes on, and not after its kill") {
  const DigitRuns digits;
  const fs::path run = digits / "run";
  const std::string more = "--epochs 1000 --checkpoint-every 1 ";
  const Shell outcome =
      shell(digits.folder.path(),
            begin(digits.train("run", more), run) + "\"$engine\" " + digits.train("run", more) +
                "; a=$?\n\"$engine\" " + digits.train("run", more + "--resume auto") +
                "; b=$?\nkill -KILL $pid; wait $pid\n[ $a = 2 ] && [ $b = 2 ]");
  CHECK(outcome.code == 0);
  CHECK(mentions(outcome.err, "another run is going on in it: process "));
  CHECK(engine_cli(digits.train("run", "--resume auto --max-steps 1")).code == 0);
}

TEST_CASE("of runs that make the same folder at once, one goes on") {
  const DigitRuns digits;
  const Shell outcome =
      shell(digits.folder.path(), "for i in 1 2 3; do \"$engine\" " + digits.train("run") +
                                      " & pids[$i]=$!; done\ncodes=\n"
                                      "for i in 1 2 3; do wait ${pids[$i]}; codes+=$?; done\n"
                                      "[[ $codes =~ ^(022|202|220)$ ]]");
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(fs::exists(digits / "run/weights/best.safetensors"));
}

TEST_CASE("Ctrl-C is acknowledged, and saved, and the line it prints goes on from anywhere") {
  const DigitRuns digits;
  const fs::path run = digits / "my run";
  const std::string relative = fmt::format(
      "train --data set --out 'my run' --model mnist_cnn --batch-size 8 --epochs 1000 --device cpu "
      "--threads 1 --workers 1 --cache none --checkpoint-every 1 --schedule cosine");
  const Shell outcome = shell(digits.folder.path(), "cd \"$folder\"\n" + begin(relative, "my run") +
                                                        "kill -INT $pid; wait $pid");
  CHECK(outcome.code == 75);
  CHECK(mentions(outcome.err, "stopping after this step; again: at once, unsaved"));
  CHECK(mentions(outcome.err, "stopped by Ctrl-C"));
  const std::string onward = fmt::format("train --resume '{}'", run.string());
  CHECK(mentions(outcome.err, "to go on: engine " + onward + "\n"));

  const Shell resumed = shell(digits.folder.path(),
                              "cd /\nexec \"$engine\" " + onward + " --epochs 2000 --max-steps 1");
  CHECK_MESSAGE(resumed.code == 0, resumed.err);
  CHECK(mentions(resumed.err,
                 "epochs: 1000 until now, 2000 from here on: the rate is now that of "
                 "a cosine schedule over all of them"));
  const auto args = [&](const char* name) { return parse_json<json>(read(run / name)); };
  CHECK(args("args.json")["epochs"] == 1000);
  CHECK(args("args.json")["data"] == digits.set.string());
  CHECK(args("args-2.json")["epochs"] == 2000);
  CHECK(args("args-2.json")["data"] == digits.set.string());
  CHECK(args("args-2.json")["schedule"] == "cosine");
  CHECK(mentions(read(run / "command.txt"), "--epochs 1000"));
  CHECK(mentions(read(run / "command-2.txt"), "--max-steps 1"));
}

TEST_CASE("a label that changes before a run is resumed is called that") {
  const DigitRuns digits;
  fs::rename(digits.set / "train/1/00000.png", digits.set / "train/1/moved.png");
  REQUIRE(engine_cli(digits.train("run")).code == 0);
  fs::rename(digits.set / "train/1/moved.png", digits.set / "train/2/moved.png");
  check_fails(engine_cli(digits.train("run", "--resume auto --epochs 2")), 3,
              "the labels are not those of the run to resume");
  fs::rename(digits.set / "train/2/moved.png", digits.set / "train/1/other.png");
  check_fails(engine_cli(digits.train("run", "--resume auto --epochs 2")), 3,
              "the images are not those of the run to resume");
}

TEST_CASE("memory and open files stay as they are over many epochs") {
  const DigitRuns digits;
  const Shell outcome =
      shell(digits.folder.path(),
            "\"$engine\" " + digits.train("run", "--epochs 200 --log-every 1000") +
                " & pid=$!\n"
                "while n=$(ls /proc/$pid/fd 2>/dev/null | wc -l) && [ $n -gt 0 ]; do\n"
                "  echo $n >>\"$folder/open\"; sleep 0.05; done; wait $pid");
  REQUIRE(outcome.code == 0);
  std::vector<int> open;
  for (const std::string& line : lines_of(digits / "open")) open.push_back(std::stoi(line));
  REQUIRE(open.size() > 20);
  const auto half = open.begin() + std::ptrdiff_t(open.size() / 2);
  constexpr int kForAMoment = 4;  // files that are being written
  CHECK(*std::max_element(half, open.end()) <= *std::max_element(open.begin(), half) + kForAMoment);

  const auto rows = lines_of(digits / "run/results.csv");
  REQUIRE(rows.size() == 201);
  const auto memory_mib = [&](size_t epoch) {
    std::istringstream row(rows[epoch]);
    std::string field;
    for (int column = 0; column < 14; ++column) std::getline(row, field, ',');
    return 1024 * std::stod(field);
  };
  const auto most = [&](size_t first, size_t last) {
    double most = 0;
    for (size_t epoch = first; epoch <= last; ++epoch) most = std::max(most, memory_mib(epoch));
    return most;
  };
  constexpr double kAllocator = 16;  // MiB that the C library may keep: of a checkpoint's copy
  CHECK(most(101, 200) < most(1, 100) + kAllocator);
}
