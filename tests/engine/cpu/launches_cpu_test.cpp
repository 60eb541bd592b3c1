// The launches of a step on the CPU backend.
#include "tests/engine/launch_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("the launches of the CPU are its steps") {
  check_launches(*make_cpu_backend({.threads = 2}));
}
