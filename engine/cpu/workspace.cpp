#include "engine/cpu/workspace.h"

#include <algorithm>

#include "engine/error.h"

namespace engine::cpu {

std::byte* Workspace::take_bytes(size_t bytes) {
  constexpr size_t kCacheLine = 64;
  const size_t end = used_ + (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
  require(end <= cap_, Failure::memory, "{}: needs {:.1f} MiB of workspace, the cap is {:.1f} MiB",
          step_, static_cast<double>(end) / (1 << 20), static_cast<double>(cap_) / (1 << 20));
  std::byte* here = base_ ? base_ + used_ : nullptr;
  used_ = end;
  return here;
}

int Workspace::fitting(int wanted, size_t bytes_each) const {
  const size_t fitting = (cap_ - used_) / std::max<size_t>(bytes_each, 1);
  return static_cast<int>(std::clamp<size_t>(fitting, 1, wanted));
}

}  // namespace engine::cpu
