// A loop over independent items on several threads.
#pragma once

#include <cstddef>
#include <functional>

namespace engine {

struct ParallelOptions {
  int threads = 1;             // at most: where the system allows fewer, fewer do it
  std::function<bool()> stop;  // polled before each item; may be empty
  std::function<void(size_t done, size_t all)> progress;  // one call at a time; may be empty
};

// Calls body(i) for every i below `count`, in about that order. If calls throw, the exception of
// the lowest i among them is rethrown once all threads have ended. When stop() returns true, it
// throws Error(preempted).
void parallel_for(size_t count, const ParallelOptions& options,
                  const std::function<void(size_t i)>& body);

}  // namespace engine
