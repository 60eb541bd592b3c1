// The launches of a step on the reference backend.
#include "tests/engine/launch_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("the launches of the reference are its steps") {
  check_launches(*make_reference_backend({}));
}
