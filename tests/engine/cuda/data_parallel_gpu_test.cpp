// Two GPUs with batch B are compared with one with 2·B; and one of them is left alone.
#include <algorithm>
#include <utility>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "models/models.h"
#include "tests/engine/optimizer_cases.h"
#include "tests/engine/ranks.h"
#include "tests/engine/step_cases.h"
#include "tests/engine/sync_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// False, which counts as skipped, where there are fewer.
bool has_two_gpus() {
  try {
    const size_t found = cuda_devices().size();
    if (found < 2) note_skipped(fmt::format("needs two GPUs, found {}", found));
    return found >= 2;
  } catch (const Error& error) {
    note_skipped(error.what());
    return false;
  }
}

MakeBackend backends_in(Precision precision) {
  return [precision](const Communicator& communicator) {
    return make_cuda_backend(
        {.device = communicator.rank, .precision = precision, .communicator = communicator});
  };
}

std::unique_ptr<Backend> backend_of(const Communicator& communicator) {
  return backends_in(Precision::fp32)(communicator);
}

// Steps of a rank of two until it gives up, or waits for the other that has.
void train_until_left(const Communicator& communicator, int steps) {
  const Graph graph = make_model("efficientnet_b0", {.classes = 7, .height = 32, .width = 32});
  const auto backend = backend_of(communicator);
  Session session(graph, *backend, {.programs = {{2, Mode::train}, {1, Mode::train}}});
  session.load(random_state(graph, 1));
  session.prepare();
  const auto images = random_bytes(2 * 32 * 32 * 3, 3);
  const auto labels = random_labels(2, 7, 4);
  for (int step = 0; step < steps; ++step)
    session.train({images.data(), labels.data(), 2}, {.learning_rate = 0.01});
  if (communicator.rank == 1) fail(Failure::data, "no more data");
  session.result(session.started());
}

// The summed gradients of a step in fp16, all together.
std::vector<float> gradients_by(Precision buckets) {
  const Graph graph = make_model("efficientnet_b0", {.classes = 5, .height = 64, .width = 64});
  constexpr int kBatch = 4, kPixels = 64 * 64 * 3;
  std::vector<float> gradients;
  run_ranks(2, [&](const Communicator& communicator) {
    const auto backend = backends_in(Precision::fp16)(communicator);
    Session session(graph, *backend,
                    {.programs = {{kBatch, Mode::gradients}},
                     .precision = Precision::fp16,
                     .deterministic = true,
                     .loss_scale = 1024,
                     .buckets = buckets,
                     .bucket_elements = 100'000});
    session.initialise(1);
    const auto images = random_bytes(kBatch * kPixels, communicator.rank);
    const auto labels = random_labels(kBatch, 5, communicator.rank);
    session.gradients({images.data(), labels.data(), kBatch}, {.divisor = 2. * kBatch});
    if (communicator.rank > 0) return;
    for (const auto& [name, tensor] : session.gradients())
      gradients.insert(gradients.end(), tensor.as<float>().begin(), tensor.as<float>().end());
  });
  return gradients;
}

// One step from weights of zero with images of one class: the gradient of its bias is minus half
// the loss scale, of which every rank has a half. Whether the step overflowed.
bool overflows_by(Precision buckets, float loss_scale) {
  Graph graph("bias", 1e-5, 0.1);
  graph.cross_entropy(graph.linear(graph.input(1, 1, 3), "head", 2));
  constexpr int kBatch = 4;
  bool overflow = false;
  run_ranks(2, [&](const Communicator& communicator) {
    const auto backend = backends_in(Precision::fp16)(communicator);
    Session session(graph, *backend,
                    {.programs = {{kBatch, Mode::train}},
                     .precision = Precision::fp16,
                     .optimizer = {.kind = OptimizerConfig::Kind::sgd, .momentum = 0},
                     .loss_scale = loss_scale,
                     .buckets = buckets});
    auto state = random_state(graph, 1);
    for (auto& [name, tensor] : state)
      std::fill(tensor.bytes.begin(), tensor.bytes.end(), std::byte{0});
    session.load(state);
    const auto images = random_bytes(kBatch * 3, 1);
    const std::vector<int32_t> labels(kBatch, 1);
    const StepInput input{.learning_rate = 1, .divisor = 2. * kBatch};
    const uint64_t step = session.train({images.data(), labels.data(), kBatch}, input);
    const bool here = session.result(step).overflow != 0;
    CHECK((session.state().at("head.bias").bytes == state.at("head.bias").bytes) == here);
    if (communicator.rank == 0) overflow = here;
  });
  return overflow;
}

}  // namespace

TEST_CASE("two GPUs train as one") {
  if (has_two_gpus()) check_data_parallel(2, backend_of);
}

TEST_CASE("two GPUs that accumulate train as one") {
  if (has_two_gpus()) check_accumulation_in_parallel(2, backend_of);
}

TEST_CASE("two GPUs that share statistics train as one") {
  if (!has_two_gpus()) return;
  check_synced_ranks(2, Precision::fp32, 1e-3, backends_in(Precision::fp32));
  for (Precision precision : {Precision::fp16, Precision::bf16})
    check_synced_ranks_in_16_bits(2, precision, 1.5, backends_in(precision),
                                  backends_in(Precision::fp32));
}

TEST_CASE("two GPUs end in the same bits with lean memory as with fast") {
  if (!has_two_gpus()) return;
  for (Precision precision : {Precision::fp32, Precision::fp16})
    check_lean_memory(2, precision, backends_in(precision));
}

// Two shares and their sum are rounded, by at most half a unit in the last place each; shares may
// be larger than their sum.
TEST_CASE("gradients travel in 16 bits") {
  if (!has_two_gpus()) return;
  const std::vector<float> exact = gradients_by(Precision::fp32);
  for (const auto& [buckets, half_unit] :
       {std::pair{Precision::fp16, 0x1p-11}, {Precision::bf16, 0x1p-8}}) {
    const double error = relative_error(gradients_by(buckets), exact);
    MESSAGE("buckets in " << name_of(buckets) << ": gradients off by " << error);
    CHECK(error > half_unit / 100);
    CHECK(error <= 4 * half_unit);
  }
}

TEST_CASE("a sum that overflows in 16 bits skips the step") {
  if (!has_two_gpus()) return;
  constexpr float kFits = 1 << 16, kSumOverflows = 3 << 16;  // the largest half is 65504
  CHECK(!overflows_by(Precision::fp16, kFits));
  CHECK(overflows_by(Precision::fp16, kSumOverflows));
  CHECK(!overflows_by(Precision::fp32, kSumOverflows));
  CHECK(!overflows_by(Precision::bf16, kSumOverflows));
}

// Rank 0's device waits in a sum that never comes. Its thread is woken, the captured graphs go, and
// NCCL gives up the sum, before the memory under it is freed.
TEST_CASE("a GPU that waits in a sum for a rank that gave up is freed") {
  if (!has_two_gpus()) return;
  std::string told;
  const std::string cause = message_of(
      [&] {
        run_ranks(2, [&](const Communicator& communicator) {
          try {
            train_until_left(communicator, communicator.rank == 0 ? 3 : 2);
          } catch (const Error& error) {
            if (communicator.rank == 0) told = error.what();
            throw;
          }
        });
      },
      Failure::data);
  CHECK(cause == "no more data");
  CHECK(told == "another rank stopped: no more data");
}
