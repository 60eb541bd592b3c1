// Ranks that share batch statistics, on the reference backend.
#include "engine/sync_norms.h"

#include <string>
#include <utility>

#include "engine/step_launches.h"
#include "kernels/sync_norms.h"
#include "tests/engine/sync_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

MakeBackend reference_in(Precision precision) {
  return [precision](const Communicator& communicator) {
    return make_reference_backend({.precision = precision, .communicator = communicator});
  };
}

}  // namespace

TEST_CASE("ranks that share statistics train as one in double") {
  for (int ranks : {2, 3, 5})
    check_synced_ranks(ranks, Precision::fp64, 1e-12, reference_in(Precision::fp64));
}

TEST_CASE("ranks that share statistics train as one in float") {
  check_synced_ranks(3, Precision::fp32, 1e-5, reference_in(Precision::fp32));
}

TEST_CASE("ranks end in the same bits with lean memory as with fast") {
  check_lean_memory(2, Precision::fp32, reference_in(Precision::fp32));
}

// 1, 2, 3 on one rank, nothing on the second, 7 and 8 on the third.
TEST_CASE("the statistics of ranks merge to those of all images") {
  double values[] = {3, 2, 2. / 3, 0, 0, 0, 2, 7.5, 0.25};
  const RankRows<double> rows{values, 3, 1};
  const ChannelPair merged = merged_statistics(rows, 0);
  CHECK(merged.first == doctest::Approx(21 / 5.).epsilon(1e-15));
  CHECK(merged.second == doctest::Approx(127 / 5. - 21. * 21 / 25).epsilon(1e-14));
}

TEST_CASE("a mean far from zero costs the merged variance nothing") {
  double values[] = {2, 1e9, 0.25, 2, 1e9 + 1, 0.25};  // 1e9 ± 0.5, and the same one higher
  CHECK(merged_statistics(RankRows<double>{values, 2, 1}, 0).second == 0.5);
}

TEST_CASE("k0 and k1 of ranks count by their images") {
  double values[] = {3, 0.5, -1, 0, 7, 7, 1, 0.1, 2};
  const ChannelPair merged = merged_sums(RankRows<double>{values, 3, 1}, 0);
  CHECK(merged.first == doctest::Approx(0.4).epsilon(1e-15));
  CHECK(merged.second == doctest::Approx(-0.25).epsilon(1e-15));
}

namespace {

// How often the ranks merge in one training step.
std::pair<int, int> merges(Session& session, int batch) {
  std::pair<int, int> count;
  for (const OrderedLaunch& ordered : session.launches(batch, Mode::train)) {
    count.first += ordered.launch->kernel == "share_statistics";
    count.second += ordered.launch->kernel == "share_norm_sums";
  }
  return count;
}

}  // namespace

TEST_CASE("a slice is merged once per direction, also by a rank without images") {
  // Three slices in the block, read by three norms; the first convolution's output is one of them.
  Graph g("block", 1e-5, 0.1);
  const int dense = g.buffer("block", 6);
  g.conv(g.input(4, 4, 3), "stem", {.out = 2, .into = dense});
  for (const std::string layer : {"a", "b"})
    g.conv(g.relu(g.batch_norm(g.placed(dense), layer + ".norm")), layer,
           {.out = 2, .into = dense});
  const Value v = g.relu(g.batch_norm(g.placed(dense), "last.norm"));
  g.cross_entropy(g.linear(g.global_pool(v, "pool"), "head", 3));
  run_ranks(2, [&](const Communicator& communicator) {
    const auto backend = reference_in(Precision::fp32)(communicator);
    const SessionOptions options{.programs = {{2, Mode::train}, {0, Mode::train}}};
    SessionOptions shared = options, frozen = options;
    shared.sync_norms = frozen.sync_norms = frozen.frozen_norms = true;
    Session apart(g, *backend, options), together(g, *backend, shared), still(g, *backend, frozen);
    for (int batch : {2, 0}) {
      CHECK(merges(apart, batch) == std::pair{0, 0});
      CHECK(merges(together, batch) == std::pair{3, 3});
      CHECK(merges(still, batch) == std::pair{0, 0});
    }
  });
  const auto alone = make_reference_backend({});
  Session session(g, *alone, {.programs = {{2, Mode::train}}, .sync_norms = true});
  CHECK(merges(session, 2) == std::pair{0, 0});
}

TEST_CASE("gradients travel in 16 bits between GPUs alone, in fp16 with a loss scale alone") {
  const auto message = [](Precision buckets, Precision storage, BackendKind kind) {
    return message_of([&] { check_buckets(buckets, storage, kind); }, Failure::usage);
  };
  CHECK(mentions(message(Precision::bf16, Precision::fp32, BackendKind::cpu),
                 "--bucket-precision bf16: only between GPUs"));
  CHECK(mentions(message(Precision::fp16, Precision::bf16, BackendKind::cuda),
                 "needs the loss scale of --precision fp16, not bf16"));
  CHECK(
      mentions(message(Precision::tf32, Precision::tf32, BackendKind::cuda), "fp32, fp16 or bf16"));
  for (Precision storage : {Precision::fp32, Precision::fp16, Precision::bf16})
    check_buckets(Precision::bf16, storage, BackendKind::cuda);
  check_buckets(Precision::fp16, Precision::fp16, BackendKind::cuda);
  check_buckets(Precision::fp32, Precision::fp64, BackendKind::reference);

  const auto backend = make_reference_backend({});
  Graph g("linear", 1e-5, 0.1);
  g.cross_entropy(g.linear(g.input(1, 1, 2), "head", 2));
  Session session(g, *backend, {.programs = {{1, Mode::train}}, .buckets = Precision::bf16});
  CHECK_THROWS_AS(session.prepare(), Error);
}
