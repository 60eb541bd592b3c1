// Ranks as threads of one process of which one fails, hangs, leaves a step out or is slow: the run
// ends with 7 and the right rank named, and resumed it ends as ever.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <optional>

#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"
#include "tests/tools/train/rank_limits.h"
#include "tools/train/test_fault.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

Outcome train(const fs::path& folder, const std::string& out, const std::string& fault,
              int timeout) {
  if (!fault.empty()) setenv("ENGINE_TEST_FAULT", fault.c_str(), 1);
  const Outcome outcome = engine_cli(
      fmt::format("train --data {0}/set --out {0}/{1} --resume auto --model mnist_cnn --image-size "
                  "12 --batch-size 2 "
                  "--epochs 1 --checkpoint-every 2 --device cpu --ranks 4 --threads 4 --workers 4 "
                  "--cache none --collective-timeout {2}",
                  folder.string(), out, timeout));
  unsetenv("ENGINE_TEST_FAULT");
  return outcome;
}

struct Runs {
  TemporaryFolder folder;
  std::string calm;  // the state that an undisturbed run ends with

  Runs() {
    REQUIRE(engine_cli(
                fmt::format("draw digits --out {}/set --train 8 --val 1", folder.path().string()))
                .code == 0);
    const Outcome outcome = train(folder.path(), "calm", "", kPatience);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    calm = last_state(folder.path() / "calm");
  }
};

struct Case {
  const char* fault;
  std::optional<bool> judged;      // by the watchdog, or at once; nothing: by whoever is faster
  std::vector<std::string> words;  // on stderr
};

}  // namespace

TEST_CASE("whatever a rank does wrong, it is named, the run ends with 7, and goes on from there") {
  const Runs runs;
  const Case cases[] = {
      {"rank=2,step=5,kind=throw", false, {"rank 2: ENGINE_TEST_FAULT asks for an exception"}},
      {"rank=1,step=5,kind=skip", std::nullopt, {"rank 1 ", "has left "}},
      {"rank=3,step=5,kind=stall",
       true,
       {"rank 3 ", "never entered all-reduce",
        "it has been "
        "computing for",
        "ranks 0, 1, 2 wait in it"}},
      {"rank=0,step=5,kind=slow-loader,seconds=3600",
       true,
       {"rank 0 ", "never entered all-reduce", "waiting for data for", "at step 5", "/train/",
        ".png", "ranks 1, 2, 3 wait in it"}}};
  for (const Case& c : cases) {
    CAPTURE(c.fault);
    const std::string out = fmt::format("run{}", &c - cases);
    const fs::path run = runs.folder.path() / out;
    const auto began = std::chrono::steady_clock::now();
    const Outcome failed = train(runs.folder.path(), out, c.fault, kTimeout);
    CHECK(std::chrono::steady_clock::now() - began < kInTime);
    CHECK(failed.code == 7);
    for (const std::string& word : c.words) CHECK(mentions(failed.err, word));
    if (c.judged) CHECK(events(run, "watchdog").size() == size_t{*c.judged});
    if (c.judged.value_or(false)) {
      CHECK(mentions(events(run, "watchdog")[0]["verdict"], c.words[0]));
      CHECK(mentions(read(run / "log.txt"), c.words[0]));
    }
    CHECK(events(run, "checkpoint").back()["step"] == 4);

    const Outcome resumed = train(runs.folder.path(), out, "", kPatience);
    CHECK_MESSAGE(resumed.code == 0, resumed.err);
    CHECK(mentions(resumed.err, "resumed after epoch 0, step 4"));
    CHECK(last_state(run) == runs.calm);
  }
}

TEST_CASE("a loader that is slow, but not as slow as the timeout, is no failure") {
  const Runs runs;
  const Outcome slow =
      train(runs.folder.path(), "slow", "rank=1,step=3,kind=slow-loader,seconds=2", kPatience);
  CHECK_MESSAGE(slow.code == 0, slow.err);
  CHECK(events(runs.folder.path() / "slow", "watchdog").empty());
  CHECK(last_state(runs.folder.path() / "slow") == runs.calm);
}

TEST_CASE("what ENGINE_TEST_FAULT may say") {
  CHECK(parse_test_fault(nullptr).kind == RankFault::none);
  const TestFault fault = parse_test_fault("kind=slow-loader,rank=3,step=12,seconds=0.5");
  CHECK(fault.kind == RankFault::loads_slowly);
  CHECK(fault.rank == 3);
  CHECK(fault.step == 12);
  CHECK(fault.seconds == 0.5);
  for (const char* wrong : {"kind=explode", "rank=one", "rank=-1", "step=", "colour=red", "stall"})
    CHECK(mentions(message_of([&] { parse_test_fault(wrong); }, Failure::usage),
                   "ENGINE_TEST_FAULT: "));
  CHECK(parse_test_fault("kind=skip,rank=1,step=2").in_step(1, 2));
  CHECK(!parse_test_fault("kind=skip,rank=1,step=2").in_step(1, 3));
  CHECK(!parse_test_fault("kind=skip,rank=1,step=2").in_step(0, 2));
  CHECK_THROWS_AS(parse_test_fault("kind=throw,rank=1,step=2").in_step(1, 2), std::runtime_error);
}
