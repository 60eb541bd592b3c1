// The launches of a step on the CUDA backend.
#include "tests/engine/cuda/cuda_backend.h"
#include "tests/engine/launch_cases.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("the launches of CUDA are its steps") {
  for (Precision precision : {Precision::fp32, Precision::fp16})
    if (const auto backend = cuda_backend(precision)) check_launches(*backend);
}
