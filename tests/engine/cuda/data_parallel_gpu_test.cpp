// Two GPUs with batch B are compared with one with 2·B; and one of them is left alone.
#include "engine/cuda_module.h"
#include "engine/error.h"
#include "tests/engine/optimizer_cases.h"
#include "tests/engine/ranks.h"
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
