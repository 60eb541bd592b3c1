// runs.csv: its columns, and how a study goes on with it.
#include <cmath>
#include <fstream>

#include "io/files/bytes.h"
#include "tests/support.h"
#include "tests/tools/scale/study_rows.h"
#include "tools/scale/facts.h"
#include "tools/scale/runs.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

std::string text_of(const fs::path& file) {
  const auto bytes = read_file(file);
  return std::string(as_text(bytes));
}

void write(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("the columns are what scripts read") {
  CHECK(runs_header() ==
        "system,host,device,nodes,ranks,threads_per_rank,model,image_size,parameters,precision,"
        "batch_per_rank,global_batch,scaling,data,loader_threads,repeat,steps,ms_median,ms_p10,"
        "ms_p90,images_per_second,data_ms,forward_ms,backward_ms,exposed_all_reduce_ms,"
        "optimizer_ms,memory_mib_per_rank,gpu_utilisation,watts,joules_per_image,status\n");
}

TEST_CASE("rows come back as they were written") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "runs.csv";
  RunRow failed = measured_row(2, 16, 32, "strong", 100);
  failed.images_per_second = kNotMeasured;
  failed.status = "failed: \"this\", and\nthat";
  {
    RunsFile runs(file, false);
    runs.append(measured_row(1, 32, 32, "weak", 123.4567));
    runs.append(failed);
  }
  const auto rows = read_runs(file);
  REQUIRE(rows.size() == 2);
  CHECK(to_csv(rows[0]) == to_csv(measured_row(1, 32, 32, "weak", 123.4567)));
  CHECK(rows[0].device == "A, \"quoted\" device");
  CHECK(rows[0].images_per_second == doctest::Approx(123.4567));
  CHECK(rows[0].parameters == 1'199'882);
  CHECK(std::isnan(rows[0].watts));
  CHECK(std::isnan(rows[1].images_per_second));
  CHECK(rows[1].status == "failed: \"this\", and that");  // a row is a line
}

TEST_CASE("a study goes on with the complete rows") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "runs.csv";
  const RunRow done = measured_row(1, 32, 32, "weak", 100);
  RunRow failed = measured_row(2, 32, 64, "weak", 100), large = measured_row(4, 32, 128, "weak", 1);
  failed.status = "failed: by chance";
  large.status = "does_not_fit";
  {
    RunsFile runs(file, false);
    for (const RunRow& row : {done, failed, large}) runs.append(row);
  }
  CHECK(mentions(message_of([&] { RunsFile(file, false); }, Failure::usage), "--resume"));
  RunsFile runs(file, true);
  CHECK(runs.rows().size() == 2);
  CHECK(runs.has(done));
  CHECK(runs.has(large));
  CHECK_FALSE(runs.has(failed));
  RunRow other = done;
  other.repeat = 2;
  CHECK_FALSE(runs.has(other));
  other = done;
  other.threads_per_rank = 2;
  CHECK_FALSE(runs.has(other));
  failed.status = "ok";
  runs.append(failed);
  CHECK(text_of(file) == runs_header() + to_csv(done) + to_csv(large) + to_csv(failed));
}

TEST_CASE("a torn last line runs again, wherever it was torn") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "runs.csv";
  const RunRow first = measured_row(1, 32, 32, "weak", 100),
               second = measured_row(2, 32, 64, "weak", 200);
  const std::string torn = to_csv(second);
  for (size_t kept = 0; kept < torn.size(); ++kept) {
    CAPTURE(kept);
    write(file, runs_header() + to_csv(first) + torn.substr(0, kept));
    RunsFile runs(file, true);
    CHECK(runs.rows().size() == 1);
    runs.append(second);
    CHECK(text_of(file) == runs_header() + to_csv(first) + torn);
  }
}

TEST_CASE("another file is refused, with what is wrong in it") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "runs.csv";
  const auto refused = [&](const std::string& text) {
    write(file, text);
    return message_of([&] { RunsFile(file, true); });
  };
  CHECK(mentions(refused(""), "runs.csv"));
  CHECK(mentions(refused("a,b\n1,2\n"), "no runs.csv"));
  std::string line = to_csv(measured_row(1, 32, 32, "weak", 100));
  CHECK(mentions(refused(runs_header() + "1,2\n" + line), "line 2"));
  line.replace(line.find(",50,"), 4, ",5x,");
  CHECK(mentions(refused(runs_header() + line), "steps is '5x'"));
  CHECK(text_of(file) == runs_header() + line);  // untouched
}

TEST_CASE("a study that was measured otherwise is not gone on with") {
  const TemporaryFolder folder;
  Study study{.models = {"mnist_cnn"}, .precisions = {"fp32"}, .ranks = {1, 2}, .batches = {32}};
  study.data = kSynthetic;
  const auto facts = [&] { return facts_of(study, {"a processor"}, 10); };
  check_study(folder.path(), facts());  // there is none yet
  write_study(folder.path(), facts());
  check_study(folder.path(), facts());
  study.ranks.push_back(4);
  study.repeats = 5;
  check_study(folder.path(), facts());  // only more of the same
  study.steps = 20;
  const std::string why = message_of([&] { check_study(folder.path(), facts()); }, Failure::usage);
  CHECK(mentions(why, "steps 50, this is 20"));
  study.steps = 50;
  CHECK(mentions(message_of([&] { check_study(folder.path(), facts_of(study, {"another"}, 10)); },
                            Failure::usage),
                 "device"));
  write(folder.path() / "study.json", "{");
  CHECK(mentions(message_of([&] { check_study(folder.path(), facts()); }), "study.json"));
}
