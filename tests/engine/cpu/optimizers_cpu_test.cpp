// The update on the CPU backend.
#include "tests/engine/optimizer_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("the CPU's optimizers follow torch.optim") {
  for (int threads : {1, 3})
    check_optimizer_traces(*make_cpu_backend({.threads = threads}), Precision::fp32);
}

TEST_CASE("shares of a batch add up on the CPU") {
  check_accumulation(*make_cpu_backend({.threads = 2}), Precision::fp32, 1e-6);
}

TEST_CASE("ranks that accumulate train as one on the CPU") {
  check_accumulation_in_parallel(2, [](const Communicator& communicator) {
    return make_cpu_backend({.threads = 1, .communicator = communicator});
  });
}

TEST_CASE("training of the head alone on the CPU") {
  check_frozen(*make_cpu_backend({.threads = 2}), Precision::fp32);
}

TEST_CASE("a recipe with everything on the CPU") {
  check_recipe(*make_cpu_backend({.threads = 2}), Precision::fp32);
}
