// A profile of the CUDA backend: CUPTI's records are the launches; one kernel alone.
#include <algorithm>
#include <vector>

#include "engine/cuda_module.h"
#include "engine/error.h"
#include "tests/support.h"
#include "tools/bench/gaps.h"
#include "tools/bench/profile.h"

using namespace engine;
using namespace engine::test;

namespace {

bool has_gpu() {
  try {
    return !cuda_devices().empty();
  } catch (const Error&) {
    return false;
  }
}

const StepBench kBench{
    .model = "efficientnet_b0", .batch = 8, .image_size = 64, .classes = 10, .steps = 8};

}  // namespace

TEST_CASE("every captured kernel of a step is matched to its launch") {
  if (!has_gpu()) return note_skipped("no GPU");
  const StepProfile p = profile_step(kBench, choose_ranks({.device = Device::cuda}));
  double busy = 0, idle = 0;
  for (const ProfiledLaunch& l : p.traced.launches) {
    CHECK_MESSAGE(l.kind != "other", l.kernel);
    CHECK_MESSAGE((l.kernels > 0) == (l.ms > 0), l.kernel << " " << l.shape);
    CHECK_FALSE(l.beside);
    busy += l.ms;
    idle += l.gap_ms;
  }
  CHECK(busy + idle == doctest::Approx(p.traced.ms).epsilon(1e-3));
  CHECK(p.untraced.marked_ms > 0);
  CHECK(p.ceilings.copy_bytes_per_s > 1e11);
}

TEST_CASE("under a filter only these launches are measured") {
  if (!has_gpu()) return note_skipped("no GPU");
  SyntheticSession synthetic(kBench, BackendKind::cuda, {.precision = Precision::fp16});
  KernelBench bench{.launches = synthetic.session().launches(kBench.batch, Mode::train),
                    .precision = Precision::fp16,
                    .runs = 3,
                    .filter = "update "};
  const KernelTimes times = time_cuda_kernels(synthetic.backend(), bench);
  REQUIRE(times.kernels.size() == 1);
  CHECK(times.kernels[0].kernel == "update");
  CHECK(times.kernels[0].ms.size() == 3);
  CHECK(times.captured_ms == 0);
  bench.filter = "no such kernel";
  CHECK(mentions(message_of([&] { time_cuda_kernels(synthetic.backend(), bench); }, Failure::usage),
                 "no such kernel"));
}
