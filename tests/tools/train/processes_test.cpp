// Ranks are threads or processes, whoever starts them: the state of the run has the same bits.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "engine/wire/socket.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// Images whose number no world size from 2 to 5 divides, in classes of several sizes.
struct OddSet {
  TemporaryFolder folder;
  std::string set = folder.path() / "set";

  OddSet() {
    REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 4 --val 2", set)).code == 0);
    for (const char* gone :
         {"train/1/00000.png", "train/1/00001.png", "train/5/00000.png", "val/7/00001.png"})
      REQUIRE(fs::remove(fs::path(set) / gone));
  }
  std::string out(const std::string& name) const { return folder.path() / name; }
  std::string train(const std::string& name, const std::string& more = "") const {
    return fmt::format(
        "train --data {} --out {} --model mnist_cnn --image-size 12 --device cpu --cache none "
        "--epochs 2 --aug "
        "light --optimizer adam --batch-size 3 --ema 0.9 --collective-timeout 60 {}",
        set, out(name), more);
  }
};

// SHA-256 of the state at the end, and what it was at each checkpoint before.
std::vector<std::string> digests(const std::string& run) {
  std::vector<std::string> found;
  for (const nlohmann::json& event : events(run, "checkpoint"))
    found.push_back(event.at("state_sha256"));
  return found;
}

void check_alike(const OddSet& odd, const std::string& one, const std::string& other) {
  CAPTURE(other);
  const auto expected = digests(odd.out(one)), got = digests(odd.out(other));
  CHECK(expected.size() >= 2);
  CHECK(got == expected);
  CHECK(figures(odd.out(other)) == figures(odd.out(one)));
  for (const char* file :
       {"weights/best.safetensors", "weights/last.safetensors", "predictions.csv", "metrics.json"})
    CHECK(read(fs::path(odd.out(other)) / file) == read(fs::path(odd.out(one)) / file));
}

// Runs a script of the shell, which calls "$engine", and returns its exit code.
int shell(const std::string& script, std::string& err) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "script", errors = folder.path() / "err";
  write_text(file, script);
  const int status = std::system(fmt::format("engine='{}' bash {} >/dev/null 2>{}", ENGINE_PROGRAM,
                                             file.string(), errors.string())
                                     .c_str());
  err = read(errors);
  return WEXITSTATUS(status);
}

// As a launcher does: a process per rank, with the variables of torchrun.
int start_with_variables(int processes, const std::string& arguments, std::string& err) {
  const Handle port = reserve_port("127.0.0.1");
  return shell(fmt::format("export WORLD_SIZE={} MASTER_ADDR=127.0.0.1 MASTER_PORT={}\n"
                           "for ((r = 0; r < WORLD_SIZE; ++r)); do\n"
                           "  RANK=$r LOCAL_RANK=$r \"$engine\" {} & pids+=($!)\n"
                           "done\n"
                           "code=0\n"
                           "for pid in \"${{pids[@]}}\"; do wait \"$pid\" || code=$?; done\n"
                           "exit $code\n",
                           processes, port_of(port), arguments),
               err);
}

constexpr char kMpi[] =
    "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
    "exec mpirun --oversubscribe --bind-to none";

}  // namespace

TEST_CASE("threads, processes, and processes of another launcher train to the same bits") {
  const OddSet odd;
  for (int ranks = 1; ranks <= 5; ++ranks) {
    CAPTURE(ranks);
    const std::string many = fmt::format("--ranks {0} --threads {0} --launch ", ranks);
    const std::string threads = fmt::format("threads-{}", ranks),
                      processes = fmt::format("processes-{}", ranks),
                      variables = fmt::format("variables-{}", ranks);
    Outcome outcome = engine_cli(odd.train(threads, many + "thread"));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    outcome = engine_cli(odd.train(processes, many + "process"));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    check_alike(odd, threads, processes);
    std::string err;
    REQUIRE_MESSAGE(start_with_variables(ranks, odd.train(variables, "--threads 1"), err) == 0,
                    err);
    check_alike(odd, threads, variables);
  }
}

TEST_CASE("processes with several ranks each are one run") {
  const OddSet odd;
  std::string err;
  REQUIRE_MESSAGE(start_with_variables(2, odd.train("two", "--ranks 2 --threads 2"), err) == 0,
                  err);
  // Sums are taken in another order than those of four threads; the figures hold few digits.
  REQUIRE(engine_cli(odd.train("four", "--ranks 4 --threads 4")).code == 0);
  CHECK(digests(odd.out("two")).size() == 2);
  const auto ours = figures(odd.out("two")), theirs = figures(odd.out("four"));
  REQUIRE(ours.size() == theirs.size());
  for (size_t row = 1; row < ours.size(); ++row) {
    std::istringstream left(ours[row]), right(theirs[row]);
    for (std::string x, y; std::getline(left, x, ',') && std::getline(right, y, ',');)
      CHECK(std::stod(x) == doctest::Approx(std::stod(y)).epsilon(1e-4));
  }
}

TEST_CASE("mpirun starts the same run") {
  std::string err;
  if (shell("command -v mpirun", err) != 0) return note_skipped("there is no mpirun");
  const OddSet odd;
  for (int ranks : {2, 3}) {
    const std::string threads = fmt::format("threads-{}", ranks),
                      mpi = fmt::format("mpi-{}", ranks);
    REQUIRE(engine_cli(odd.train(threads, fmt::format("--ranks {0} --threads {0}", ranks))).code ==
            0);
    REQUIRE_MESSAGE(
        shell(fmt::format("{} -np {} \"$engine\" {}", kMpi, ranks, odd.train(mpi, "--threads 1")),
              err) == 0,
        err);
    check_alike(odd, threads, mpi);
  }
}

TEST_CASE("a run goes on with threads where processes left it, and the other way round") {
  const OddSet odd;
  const std::string thread = "--ranks 3 --threads 3 --launch thread ",
                    process = "--ranks 3 --threads 3 --launch process ";
  REQUIRE(engine_cli(odd.train("calm", thread)).code == 0);
  int number = 0;
  for (const auto& [first, second] : {std::pair(thread, process), {process, thread}}) {
    const std::string run = fmt::format("resumed-{}", number++);
    REQUIRE(engine_cli(odd.train(run, first + "--max-steps 2")).code == 0);  // within an epoch
    const Outcome outcome = engine_cli(odd.train(run, second + "--resume auto"));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    CHECK(digests(odd.out(run)).back() == digests(odd.out("calm")).back());
    CHECK(figures(odd.out(run)).back() == figures(odd.out("calm")).back());
  }
}

TEST_CASE("a signal to the process that started the ranks stops all of them, to be resumed") {
  const OddSet odd;
  const std::string more = "--ranks 2 --threads 2 --launch process --epochs 20 ";
  REQUIRE(engine_cli(odd.train("calm", more)).code == 0);
  std::string err;
  const int code =
      shell(fmt::format("\"$engine\" {} & pid=$!\n"
                        "until compgen -G '{}/ckpt/*.safetensors'; do\n"
                        "  kill -0 $pid || exit 99\n  sleep 0.01\ndone\n"
                        "kill -TERM $pid; wait $pid\n",
                        odd.train("stopped", more + "--checkpoint-every 1"), odd.out("stopped")),
            err);
  REQUIRE_MESSAGE(code == 75, err);
  CHECK(mentions(err, "stopped by SIGTERM"));
  REQUIRE(engine_cli(odd.train("stopped", more + "--resume auto")).code == 0);
  CHECK(digests(odd.out("stopped")).back() == digests(odd.out("calm")).back());
  CHECK(figures(odd.out("stopped")) == figures(odd.out("calm")));
}

TEST_CASE("what one process cannot do ends all of them, with its code") {
  const OddSet odd;
  const std::string both = "--ranks 2 --threads 2 --launch process ";
  check_fails(engine_cli(odd.train("bad", both + "--weights /nowhere.pth")), 4, "/nowhere.pth");
  CHECK_FALSE(fs::exists(odd.out("bad")));
  check_fails(engine_cli(odd.train("lost", both + "--lr 1000 --optimizer sgd --wd 1 --epochs 9")),
              5, "the loss is");
  // Process 1 alone sees another data set.
  std::string err;
  const OddSet other;
  const Handle port = reserve_port("127.0.0.1");
  fs::remove(fs::path(other.set) / "train/3/00000.png");
  const int code =
      shell(fmt::format("export WORLD_SIZE=2 MASTER_PORT={}\n"
                        "RANK=1 \"$engine\" {} --data {} &\nRANK=0 \"$engine\" {}\n"
                        "code=$?; wait $! && exit 99; exit $code\n",
                        port_of(port), odd.train("mixed"), other.set, odd.train("mixed")),
            err);
  CHECK(code == 2);
  CHECK(mentions(err, "process 1 does not do what process 0 does: image_files is"));
  CHECK_FALSE(fs::exists(odd.out("mixed")));
}

TEST_CASE("only process 0 says what happens") {
  const OddSet odd;
  const Outcome outcome = engine_cli(odd.train("run", "--ranks 3 --threads 3 --launch process"));
  REQUIRE(outcome.code == 0);
  const auto count = [&](const std::string& part) {
    int found = 0;
    for (size_t at = 0; (at = outcome.err.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  CHECK(count("run directory") == 1);
  CHECK(count("epoch 2/2: train loss") == 1);
  CHECK(count("10 classes") == 1);
}

TEST_CASE("a verb that runs in one process says so under a launcher of several") {
  std::string err;
  CHECK(shell("RANK=0 WORLD_SIZE=2 \"$engine\" parity reference.safetensors --device cpu", err) ==
        2);
  CHECK(mentions(err, "torchrun started this as one of 2 processes, but it runs in one"));
  CHECK(shell("RANK=2 WORLD_SIZE=2 \"$engine\" train --data /nowhere", err) == 2);
  CHECK(mentions(err, "RANK=2 contradicts WORLD_SIZE=2"));
}
