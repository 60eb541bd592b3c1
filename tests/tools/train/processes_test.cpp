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
#include "tests/tools/train/odd_set.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// As a launcher does: a process per rank, with the variables of torchrun.
Outcome start_with_variables(int processes, const std::string& arguments) {
  const Handle port = reserve_port("127.0.0.1");
  return run_script(
      fmt::format("export WORLD_SIZE={} MASTER_ADDR=127.0.0.1 MASTER_PORT={}\n"
                  "for ((r = 0; r < WORLD_SIZE; ++r)); do\n"
                  "  RANK=$r LOCAL_RANK=$r \"$engine\" {} & pids+=($!)\n"
                  "done\n"
                  "code=0\n"
                  "for pid in \"${{pids[@]}}\"; do wait \"$pid\" || code=$?; done\n"
                  "exit $code\n",
                  processes, port_of(port), arguments));
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
    outcome = start_with_variables(ranks, odd.train(variables, "--threads 1"));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    check_alike(odd, threads, variables);
  }
}

TEST_CASE("processes with several ranks each are one run") {
  const OddSet odd;
  const Outcome two = start_with_variables(2, odd.train("two", "--ranks 2 --threads 2"));
  REQUIRE_MESSAGE(two.code == 0, two.err);
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
  if (run_script("command -v mpirun").code != 0) return note_skipped("there is no mpirun");
  const OddSet odd;
  for (int ranks : {2, 3}) {
    const std::string threads = fmt::format("threads-{}", ranks),
                      mpi = fmt::format("mpi-{}", ranks);
    REQUIRE(engine_cli(odd.train(threads, fmt::format("--ranks {0} --threads {0}", ranks))).code ==
            0);
    const Outcome outcome = run_script(
        fmt::format("{} -np {} \"$engine\" {}", kMpi, ranks, odd.train(mpi, "--threads 1")));
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
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
  const Outcome stopped = run_script(
      fmt::format("\"$engine\" {} & pid=$!\n"
                  "until compgen -G '{}/ckpt/*.safetensors'; do\n"
                  "  kill -0 $pid || exit 99\n  sleep 0.01\ndone\n"
                  "kill -TERM $pid; wait $pid\n",
                  odd.train("stopped", more + "--checkpoint-every 1"), odd.out("stopped")));
  REQUIRE_MESSAGE(stopped.code == 75, stopped.err);
  CHECK(mentions(stopped.err, "stopped by SIGTERM"));
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
  const OddSet other;
  const Handle port = reserve_port("127.0.0.1");
  fs::remove(fs::path(other.set) / "train/3/00000.png");
  const auto mixed = [&](const std::string& flags) {
    return run_script(
        fmt::format("export WORLD_SIZE=2 MASTER_PORT={}\n"
                    "RANK=1 \"$engine\" {} {} &\nRANK=0 \"$engine\" {}\n"
                    "code=$?; wait $! && exit 99; exit $code\n",
                    port_of(port), odd.train("mixed"), flags, odd.train("mixed")));
  };
  for (const auto& [flags, differs] : {std::pair("--data " + other.set, "image_files is"),
                                       {std::string("--lr 0.5"), "--lr is 0.5, not 0.001"},
                                       {std::string("--max-steps 7"), "--max-steps is 7, not 0"}}) {
    const Outcome told = mixed(flags);
    CHECK(told.code == 2);
    CHECK(mentions(told.err, std::string("process 1 does not do what process 0 does: ") + differs));
  }
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
  check_fails(run_script("RANK=0 WORLD_SIZE=2 \"$engine\" parity r.safetensors --device cpu"), 2,
              "torchrun started this as one of 2 processes, but it runs in one");
  check_fails(run_script("RANK=2 WORLD_SIZE=2 \"$engine\" train --data /nowhere"), 2,
              "RANK=2 contradicts WORLD_SIZE=2");
}
