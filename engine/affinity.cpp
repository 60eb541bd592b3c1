#include "engine/affinity.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace engine {
namespace {

// A mask for `size` cores: cpu_set_t holds 1,024, and a kernel may have more.
struct Mask {
  explicit Mask(int size) : bytes(CPU_ALLOC_SIZE(size)), set(CPU_ALLOC(size)) {
    if (set) CPU_ZERO_S(bytes, set.get());
  }
  struct Free {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
  };
  size_t bytes;
  std::unique_ptr<cpu_set_t, Free> set;
};

}  // namespace

std::vector<int> allowed_cores() {
  constexpr int kMost = 1 << 20;
  for (int size = CPU_SETSIZE; size <= kMost; size *= 2) {
    const Mask mask(size);
    if (!mask.set) break;
    if (sched_getaffinity(0, mask.bytes, mask.set.get()) == 0) {
      std::vector<int> cores;
      for (int core = 0; core < size; ++core)
        if (CPU_ISSET_S(core, mask.bytes, mask.set.get())) cores.push_back(core);
      return cores;
    }
    if (errno != EINVAL) break;
  }
  return {0};
}

void run_on(std::span<const int> cores) {
  if (cores.empty()) return;
  const Mask mask(std::max(CPU_SETSIZE, std::ranges::max(cores) + 1));
  if (!mask.set) return;
  for (const int core : cores) CPU_SET_S(core, mask.bytes, mask.set.get());
  sched_setaffinity(0, mask.bytes, mask.set.get());
}

}  // namespace engine
