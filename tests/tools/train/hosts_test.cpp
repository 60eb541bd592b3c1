// Ranks on two hosts, which are network namespaces of this machine: the bits are those of threads.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/support.h"
#include "tests/tools/engine/program.h"
#include "tests/tools/train/odd_set.h"
#include "tools/scale/runs.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kSkipped = 77;

// `launcher` is "variables" or "mpi".
Outcome on_two_hosts(const std::string& launcher, int ranks_of_a_host, const std::string& command) {
  return run_script(fmt::format("exec '{}/tests/tools/train/two_hosts.sh' {} {} {}",
                                ENGINE_SOURCE_DIR, launcher, ranks_of_a_host, command));
}

}  // namespace

TEST_CASE("two hosts train to the bits of one process") {
  const OddSet odd;
  for (const char* launcher : {"variables", "mpi"})
    for (const int ranks : {1, 2}) {
      CAPTURE(launcher);
      CAPTURE(ranks);
      const std::string threads = fmt::format("threads-{}", ranks),
                        hosts = fmt::format("{}-{}", launcher, ranks);
      const Outcome many =
          on_two_hosts(launcher, ranks, "\"$engine\" " + odd.train(hosts, "--threads 1"));
      if (many.code == kSkipped) return note_skipped(many.err);
      REQUIRE_MESSAGE(many.code == 0, many.err);
      if (!std::filesystem::exists(odd.out(threads)))
        REQUIRE(engine_cli(odd.train(threads, fmt::format("--ranks {0} --threads {0}", 2 * ranks)))
                    .code == 0);
      check_alike(odd, threads, hosts);
    }
}

TEST_CASE("a study on two hosts has rows of both, and its baseline on one") {
  for (const char* launcher : {"variables", "mpi"}) {
    CAPTURE(launcher);
    const TemporaryFolder folder;
    const Outcome outcome = on_two_hosts(
        launcher, 1,
        fmt::format("\"$engine\" scale --model mnist_cnn --ranks 1,2 --batch-size 4 --steps 2 "
                    "--warmup 1 --independent --out {}",
                    (folder.path() / "study").string()));
    if (outcome.code == kSkipped) return note_skipped(outcome.err);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
    const std::vector<RunRow> rows = read_runs(folder.path() / "study/runs.csv");
    REQUIRE(rows.size() == 3 * 3);  // repeats of one rank, two, and two that are independent
    for (const RunRow& row : rows) {
      CHECK(row.status == "ok");
      CHECK(row.nodes == row.ranks);
      CHECK(row.host == (row.ranks == 1 ? "host-a" : "host-a, host-b"));
    }
    CHECK(mentions(outcome.out, "on 2 hosts (host-a, host-b)"));
  }
}
