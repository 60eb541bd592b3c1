// The limits that work is cut by are those of the device, or the defaults where there is none.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("device_limits") {
  const DeviceLimits& limits = kernels::device_limits();
  CHECK(&limits == &kernels::device_limits());
  if (!has_gpu()) {
    CHECK(limits == DeviceLimits{});
    return note_skipped("no GPU");
  }
  cudaDeviceProp device;
  REQUIRE(cudaGetDeviceProperties(&device, 0) == cudaSuccess);
  CHECK(limits == DeviceLimits{.multiprocessors = device.multiProcessorCount,
                               .shared_bytes = int(device.sharedMemPerMultiprocessor),
                               .reserved_bytes = int(device.reservedSharedMemPerBlock),
                               .l2_bytes = device.l2CacheSize});
}
