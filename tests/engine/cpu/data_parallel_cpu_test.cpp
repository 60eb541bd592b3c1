// Ranks on the CPU backend: N with batch B are compared with one with N·B.
#include "tests/engine/ranks.h"
#include "tests/engine/sync_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("ranks on the CPU train as one") {
  for (int ranks : {2, 4})
    check_data_parallel(ranks, [](const Communicator& communicator) {
      return make_cpu_backend({.threads = 1, .communicator = communicator});
    });
}

// Most cases differ by 3e-6. The bound leaves room for a value that rounding puts on the other side
// of a ReLU's kink, which misplaces its gradient; in double, on the reference, none is.
TEST_CASE("ranks on the CPU that share statistics train as one") {
  for (int ranks : {2, 3})
    check_synced_ranks(ranks, Precision::fp32, 1e-3, [](const Communicator& communicator) {
      return make_cpu_backend({.threads = 1, .communicator = communicator});
    });
}

TEST_CASE("ranks on the CPU end in the same bits with lean memory as with fast") {
  check_lean_memory(2, Precision::fp32, [](const Communicator& communicator) {
    return make_cpu_backend({.threads = 1, .communicator = communicator});
  });
}
