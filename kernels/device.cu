// The limits of the devices, asked once.
#include <vector>

#include "kernels/kernels.h"
#include "kernels/launch.cuh"

namespace engine::kernels {
namespace {

// Without a device, the defaults.
std::vector<DeviceLimits> limits_of_all() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return {DeviceLimits{}};
  std::vector<DeviceLimits> all(count);
  for (int device = 0; device < count; ++device) {
    const auto ask = [&](int& to, cudaDeviceAttr attribute) {
      int value = 0;
      if (cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess) to = value;
    };
    ask(all[device].multiprocessors, cudaDevAttrMultiProcessorCount);
    ask(all[device].shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    ask(all[device].reserved_bytes, cudaDevAttrReservedSharedMemoryPerBlock);
    ask(all[device].l2_bytes, cudaDevAttrL2CacheSize);
  }
  return all;
}

// By device: compute capability 9.0 or later.
std::vector<bool> overlap_of_all() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<bool> all(count);
  for (int device = 0; device < count; ++device) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    all[device] = major >= 9;
  }
  return all;
}

}  // namespace

bool launches_overlap() {
  static const std::vector<bool> all = overlap_of_all();
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess && all[device];
}

const DeviceLimits& device_limits() {
  static const std::vector<DeviceLimits> all = limits_of_all();
  int device = 0;
  cudaGetDevice(&device);
  return all[device];
}

}  // namespace engine::kernels
