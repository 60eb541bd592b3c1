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

TEST_CASE("ranks on the CPU that share statistics train as one") {
  for (int ranks : {2, 3})
    check_synced_ranks(ranks, Precision::fp32, 1e-5, [](const Communicator& communicator) {
      return make_cpu_backend({.threads = 1, .communicator = communicator});
    });
}
