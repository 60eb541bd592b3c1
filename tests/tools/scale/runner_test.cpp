// Configurations on the CPU: what fits, what fails, what is divided.
#include <cmath>

#include "io/images/encode.h"
#include "tests/support.h"
#include "tools/machine/cores.h"
#include "tools/scale/runner.h"

using namespace engine;
using namespace engine::test;

namespace {

Study tiny_study() {
  StudyFlags flags{.models = "mnist_cnn", .ranks = "1,2", .batches = "6"};
  flags.steps = 2;
  flags.warmup = 1;
  return study_of(flags, {BackendKind::cpu, available_cores()});
}

}  // namespace

TEST_CASE("a row has the parts of its step") {
  StudyRunner runner(tiny_study(), join_study(tiny_study()));
  const RunRow row = runner.run(configurations(tiny_study()).front(), 2);
  REQUIRE_MESSAGE(row.ok(), row.status);
  CHECK(row.repeat == 2);
  CHECK(row.parameters == 1'199'882);
  CHECK(row.data_ms == 0);
  CHECK(row.exposed_all_reduce_ms >= 0);
  for (const double part : {row.forward_ms, row.backward_ms, row.optimizer_ms}) CHECK(part > 0);
  CHECK(row.images_per_second == doctest::Approx(6e3 / row.ms_median));
  CHECK(row.memory_mib_per_rank > 1'199'882 * 16 / 0x1p20);  // values, gradients, two moments
  CHECK(std::isnan(row.watts));
}

TEST_CASE("what does not fit is a row, and says what it would take") {
  StudyFlags flags{.models = "densenet121", .ranks = "1", .batches = "65536"};
  const Study study = study_of(flags, {BackendKind::cpu, 1});
  StudyRunner runner(study, join_study(study));
  const RunRow row = runner.run(configurations(study).front(), 1);
  CHECK(row.status == "does_not_fit");
  CHECK(row.memory_mib_per_rank > 1e6);
  CHECK(std::isnan(row.images_per_second));
}

TEST_CASE("what fails is a row with the reason") {
  Study study = tiny_study();
  StudyRunner runner(study, join_study(study));
  Configuration c = configurations(study).front();
  c.precision = "fp16";
  CHECK(mentions(runner.run(c, 1).status, "failed: --precision fp16 needs a GPU"));
  c.precision = "fp32";
  c.ranks = available_cores() + 1;
  c.global = 6 * c.ranks;
  CHECK(mentions(runner.run(c, 1).status, "failed: "));
  CHECK(mentions(runner.run(c, 1).status, "cores"));
}

TEST_CASE("a global batch is divided as in training") {
  StepBench bench{.model = "mnist_cnn", .batch = 8};
  CHECK(batch_of(bench, 2, 3) == 8);
  CHECK(images_per_step(bench, 3) == 24);
  bench.total = 8;
  CHECK(batch_of(bench, 0, 3) == 3);
  CHECK(batch_of(bench, 1, 3) == 3);
  CHECK(batch_of(bench, 2, 3) == 2);
  CHECK(images_per_step(bench, 3) == 8);
  bench.total = 2;
  CHECK(mentions(message_of([&] { measure_step(with_defaults(bench), choose_ranks({.ranks = 3})); },
                            Failure::usage),
                 "none for rank 2"));
}

TEST_CASE("two ranks of unequal batches are measured") {
  if (available_cores() < 2) return note_skipped("two ranks want two cores");
  StudyRunner runner(tiny_study(), join_study(tiny_study()));
  const Configuration c{.model = "mnist_cnn",
                        .precision = "fp32",
                        .ranks = 2,
                        .batch = 3,
                        .global = 5,
                        .scaling = Scaling::strong};
  const RunRow row = runner.run(c, 1);
  REQUIRE_MESSAGE(row.ok(), row.status);
  CHECK(row.images_per_second == doctest::Approx(5e3 / row.ms_median));
  CHECK(row.exposed_all_reduce_ms > 0);
}

TEST_CASE("ranks that share nothing are measured side by side") {
  if (available_cores() < 2) return note_skipped("two ranks want two cores");
  StudyRunner runner(tiny_study(), join_study(tiny_study()));
  const Configuration c{.model = "mnist_cnn",
                        .precision = "fp32",
                        .ranks = 2,
                        .batch = 6,
                        .global = 12,
                        .scaling = Scaling::independent};
  const RunRow row = runner.run(c, 1);
  REQUIRE_MESSAGE(row.ok(), row.status);
  CHECK(row.scaling == "independent");
  CHECK(row.nodes == 1);
  CHECK(row.images_per_second == doctest::Approx(12e3 / row.ms_median));
  const std::vector<std::vector<double>> ranks{{3, 5, 4}, {4, 2, 6}};
  CHECK(slowest_of(ranks) == std::vector<double>{4, 5, 6});
}

TEST_CASE("a rank has the same cores in every configuration") {
  if (available_cores() < 2) return note_skipped("two ranks want two cores");
  const Ranks joined = join_study(tiny_study());
  CHECK(joined.count() == 2);
  CHECK_FALSE(joined.cores[0].empty());
  StudyRunner runner(tiny_study(), joined);
  const auto all = configurations(tiny_study());
  REQUIRE(all.front().ranks == 1);
  for (const Configuration& c : all) {
    const Ranks ranks = runner.ranks_of(c);
    for (int i = 0; i < c.ranks; ++i) CHECK(ranks.cores[i] == joined.cores[i]);
  }
}

TEST_CASE("steps on a data set wait for its loader") {
  const TemporaryFolder folder;
  for (const char* part : {"train", "val"})
    for (const char* digit : {"0", "1"}) {
      const auto place = folder.path() / part / digit;
      std::filesystem::create_directories(place);
      for (int i = 0; i < 7; ++i)
        write_image(place / (std::to_string(i) + ".png"), Image(28, 28, 1));
    }
  Study study = tiny_study();
  study.data = folder.path();
  study.workers = {1};
  StudyRunner runner(study, join_study(study));
  CHECK(runner.classes() == 2);
  const RunRow row = runner.run(configurations(study).front(), 1);  // 14 images: two steps an epoch
  REQUIRE_MESSAGE(row.ok(), row.status);
  CHECK(row.data_ms > 0);
  CHECK(row.loader_threads == 1);
  Configuration large = configurations(study).front();
  large.batch = large.global = 20;
  CHECK(mentions(runner.run(large, 1).status, "14 images are less than a batch of 20"));
}
