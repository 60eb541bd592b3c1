// A tiny study through the program: its files, and how it goes on.
#include <fmt/format.h>

#include <algorithm>

#include "engine/wire/socket.h"
#include "io/files/csv.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"
#include "tools/machine/cores.h"
#include "tools/machine/environment.h"
#include "tools/scale/runs.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

std::string without_last_line(std::string text) {
  text.pop_back();
  return text.substr(0, text.rfind('\n') + 1);
}

// A study by two processes with these variables besides RANK, in the shell's words.
std::vector<RunRow> study_of_two(const std::string& variables, const std::string& rank) {
  const TemporaryFolder folder;
  const Handle port = reserve_port("127.0.0.1");
  const Outcome outcome = run_script(
      fmt::format("export MASTER_ADDR=127.0.0.1 MASTER_PORT={} {}\n"
                  "study() {{ exec \"$engine\" scale --model mnist_cnn --batch-size 4 --ranks 1,2 "
                  "--steps 1 --warmup 1 --out {}; }}\n"
                  "({}) & pid=$!\n({})\ncode=$?; wait $pid && exit $code\n",
                  port_of(port), variables, (folder.path() / "study").string(),
                  fmt::format(fmt::runtime(rank), 1), fmt::format(fmt::runtime(rank), 0)));
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(mentions(outcome.out, "processes         2 by "));
  return read_runs(folder.path() / "study/runs.csv");
}

}  // namespace

TEST_CASE("a study on the CPU leaves its rows, its summary and its report, and goes on") {
  if (available_cores() < 2) return note_skipped("two ranks want two cores");
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "study";
  const std::string command = fmt::format(
      "scale --preset R5-cpu --model mnist_cnn --ranks 1,2 --batch-size 4,6 --steps 2 "
      "--warmup 1 --epoch-images 60000 --out {}",
      out.string());
  const Outcome first = engine_cli(command);
  REQUIRE_MESSAGE(first.code == 0, first.err);
  const std::string text = read(out / "runs.csv");
  const Csv runs = parse_csv(text, "runs.csv");
  REQUIRE(runs.rows.size() == 2 * 2 * 3);
  const int status = runs.column("status"), repeat = runs.column("repeat");
  for (size_t i = 0; i < runs.rows.size(); ++i) {
    const auto& fields = runs.rows[i].fields;
    CHECK(fields[repeat] == std::to_string(i / 4 + 1));  // in turns
    CHECK(fields[status] == "ok");
    CHECK(fields[runs.column("threads_per_rank")] == "1");
  }
  CHECK(mentions(first.out, "mnist_cnn         10 classes, 28 px, 1199882 parameters, 4.58 MiB"));
  CHECK(mentions(first.out, "mnist_cnn: best is "));
  CHECK(read(out / "report.txt") == first.out);
  CHECK(parse_csv(read(out / "summary.csv"), "summary.csv").rows.size() == 4);

  check_fails(engine_cli(command), 2, "--resume goes on with it");
  check_fails(engine_cli(command + " --resume --warmup 2"), 2, "warmup 1, this is 2");
  CHECK(read(out / "runs.csv") == text);
  write_text(out / "runs.csv", without_last_line(text) + "engine,torn");
  const Outcome second = engine_cli(command + " --resume");
  REQUIRE_MESSAGE(second.code == 0, second.err);
  CHECK(std::count(second.err.begin(), second.err.end(), '\n') == 1);  // the rest was there
  CHECK(parse_csv(read(out / "runs.csv"), "runs.csv").rows.size() == 12);
  CHECK(read(out / "runs.csv").starts_with(without_last_line(text)));
}

TEST_CASE("under a launcher the rows say on how many hosts they were measured") {
  if (available_cores() < 2) return note_skipped("two ranks want two cores");
  struct Case {
    const char *variables, *rank;
    int nodes;
  };
  for (const Case& c :
       {Case{"WORLD_SIZE=2 LOCAL_WORLD_SIZE=1", "RANK={0} LOCAL_RANK=0 study", 2},
        Case{"WORLD_SIZE=2 LOCAL_WORLD_SIZE=2", "RANK={0} LOCAL_RANK={0} study", 1},
        Case{"SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_STEP_TASKS_PER_NODE='1(x2)' "
             "SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST='n[1-2]'",
             "SLURM_PROCID={0} SLURM_NODEID={0} SLURM_LOCALID=0 study", 2}}) {
    CAPTURE(c.variables);
    const std::vector<RunRow> rows = study_of_two(c.variables, c.rank);
    REQUIRE(rows.size() == 2 * 3);
    for (const RunRow& row : rows) {
      CHECK(row.ok());
      CHECK(row.nodes == (row.ranks == 1 ? 1 : c.nodes));
      CHECK(row.host == this_host().name);
      CHECK(row.device == this_host().cpu);
    }
  }
}

TEST_CASE("a study of what does not fit ends well") {
  const TemporaryFolder folder;
  const Outcome outcome =
      engine_cli(fmt::format("scale --model densenet121 --ranks 1 --batch-size 65536 --out {}",
                             (folder.path() / "study").string()));
  REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(mentions(outcome.out, "does_not_fit"));
}

TEST_CASE("mistakes in the flags of a study are one line") {
  const TemporaryFolder folder;
  const std::string out = folder.path() / "study";
  check_fails(engine_cli("scale --out " + out + " --model none"), 2, "'none'");
  check_fails(engine_cli("scale --out " + out + " --preset R9"), 2, "R5-gpu");
  check_fails(engine_cli("scale --out " + out + " --repeats 2"), 2, "--repeats");
  check_fails(engine_cli("scale --out " + out + " --ranks 1..x"), 2, "--ranks: 'x'");
  CHECK_FALSE(fs::exists(out));
}
