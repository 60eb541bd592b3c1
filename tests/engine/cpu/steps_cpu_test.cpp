// The step table on the CPU backend against the reference in double.
#include "tests/engine/nan_cases.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

// The limit is that of the reference in float: rounding at 6e-8 and short sums. The library adds up
// in another order, which is no less accurate.
TEST_CASE("every step on the CPU agrees with the reference in double") {
  for (int threads : {1, 2}) {
    const auto backend = make_cpu_backend({.threads = threads});
    check_steps(*backend, {}, {.error = 1e-5});
  }
}

TEST_CASE("every step on the CPU with frozen norms agrees with the reference in double") {
  const auto backend = make_cpu_backend({});
  check_steps(*backend, {.frozen_norms = true}, {.error = 1e-5});
}

TEST_CASE("mixed and packed batches on the CPU agree with the reference in double") {
  for (int threads : {1, 3}) {
    const auto backend = make_cpu_backend({.threads = threads});
    check_inputs(*backend, {}, {.error = 1e-5});
  }
}

TEST_CASE("what is not finite goes on and is found on the CPU") {
  const auto backend = make_cpu_backend({.threads = 2});
  check_nan_propagates(*backend, {});
  check_inspection(*backend, {});
}
