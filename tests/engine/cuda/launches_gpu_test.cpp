// The launches of a step on the CUDA backend.
#include "tests/engine/cuda/cuda_backend.h"
#include "tests/engine/launch_cases.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("the launches of CUDA are its steps") {
  if (const auto backend = cuda_backend(Precision::fp32)) check_launches(*backend);
}
