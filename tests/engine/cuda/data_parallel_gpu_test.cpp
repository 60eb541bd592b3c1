// Two GPUs with batch B are compared with one with 2·B; and one of them is left alone.
#include "engine/cuda_module.h"
#include "engine/error.h"
#include "models/models.h"
#include "tests/engine/optimizer_cases.h"
#include "tests/engine/ranks.h"
#include "tests/engine/step_cases.h"
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

// Steps of a rank of two until it gives up, or waits for the other that has.
void train_until_left(const Communicator& communicator, int steps) {
  const Graph graph = make_model("efficientnet_b0", {.classes = 7, .height = 32, .width = 32});
  const auto backend =
      make_cuda_backend({.device = communicator.rank, .communicator = communicator});
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

std::unique_ptr<Backend> backend_of(const Communicator& communicator) {
  return make_cuda_backend({.device = communicator.rank, .communicator = communicator});
}

}  // namespace

TEST_CASE("two GPUs train as one") {
  if (has_two_gpus()) check_data_parallel(2, backend_of);
}

TEST_CASE("two GPUs that accumulate train as one") {
  if (has_two_gpus()) check_accumulation_in_parallel(2, backend_of);
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
