// Two GPUs with batch B against one with 2·B.
#include "engine/cuda_module.h"
#include "engine/error.h"
#include "tests/engine/ranks.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("two GPUs train as one") {
  try {
    if (const size_t found = cuda_devices().size(); found < 2)
      return note_skipped(fmt::format("needs two GPUs, found {}", found));
  } catch (const Error& error) {
    return note_skipped(error.what());
  }
  check_data_parallel(2, [](const Communicator& communicator) {
    return make_cuda_backend({.device = communicator.rank, .communicator = communicator});
  });
}
