// Ranks that share batch statistics, on the reference backend.
#include "engine/sync_norms.h"

#include "kernels/sync_norms.h"
#include "tests/engine/sync_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

MakeBackend reference_in(Precision precision) {
  return [precision](const Communicator& communicator) {
    return make_reference_backend({.precision = precision, .communicator = communicator});
  };
}

}  // namespace

TEST_CASE("ranks that share statistics train as one in double") {
  for (int ranks : {2, 3, 5})
    check_synced_ranks(ranks, Precision::fp64, 1e-12, reference_in(Precision::fp64));
}

TEST_CASE("ranks that share statistics train as one in float") {
  check_synced_ranks(3, Precision::fp32, 1e-5, reference_in(Precision::fp32));
}
