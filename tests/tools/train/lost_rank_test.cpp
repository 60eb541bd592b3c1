// Ranks as processes of which one is killed or stopped: the run ends with 7 and the right rank
// named, no process stays behind, and resumed the run ends as ever.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "tests/support.h"
#include "tests/tools/engine/program.h"
#include "tests/tools/train/rank_limits.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

Outcome train(const fs::path& folder, const std::string& out, const char* fault) {
  if (fault) setenv("ENGINE_TEST_FAULT", fault, 1);
  const Outcome outcome = engine_cli(fmt::format(
      "train --data {0}/set --out {0}/{1} --resume auto --model mnist_cnn --image-size 12 "
      "--batch-size 2 "
      "--epochs 1 --checkpoint-every 2 --device cpu --launch process --ranks 4 --threads 4 "
      "--workers 4 --cache none --collective-timeout {2}",
      folder.string(), out, fault ? kTimeout : kPatience));
  unsetenv("ENGINE_TEST_FAULT");
  return outcome;
}

// Running processes that have `word` on their command line.
int processes_with(const std::string& word) {
  int found = 0;
  for (const auto& entry : fs::directory_iterator("/proc"))
    found += read(entry.path() / "cmdline").find(word) != std::string::npos;
  return found;
}

}  // namespace

TEST_CASE("a process that is killed or stopped is named, and nothing of the run stays behind") {
  const TemporaryFolder folder;
  REQUIRE(
      engine_cli(fmt::format("draw digits --out {}/set --train 8 --val 1", folder.path().string()))
          .code == 0);
  const Outcome calm = train(folder.path(), "calm", nullptr);
  REQUIRE_MESSAGE(calm.code == 0, calm.err);
  for (const auto& [kind, story] : {std::pair{"kill", "is lost, its process is gone"},
                                    std::pair{"stop", "has given no sign of life"}})
    for (int rank : {0, 1, 3}) {
      CAPTURE(kind);
      CAPTURE(rank);
      const std::string out = fmt::format("{}{}", kind, rank);
      const auto began = std::chrono::steady_clock::now();
      const Outcome failed =
          train(folder.path(), out, fmt::format("rank={},step=5,kind={}", rank, kind).c_str());
      CHECK(std::chrono::steady_clock::now() - began < kInTime);
      CHECK(failed.code == 7);
      CHECK(mentions(failed.err, fmt::format("rank {} (host ", rank)));
      CHECK(mentions(failed.err, story));
      CHECK(processes_with((folder.path() / out).string()) == 0);

      const Outcome resumed = train(folder.path(), out, nullptr);
      CHECK_MESSAGE(resumed.code == 0, resumed.err);
      CHECK(last_state(folder.path() / out) == last_state(folder.path() / "calm"));
    }
}
