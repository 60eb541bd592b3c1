#include "engine/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "engine/error.h"

namespace engine {

void parallel_for(size_t count, const ParallelOptions& options,
                  const std::function<void(size_t i)>& body) {
  std::atomic<size_t> next = 0;
  std::atomic<bool> stopped = false;
  std::mutex mutex;  // guards what follows and the calls of progress()
  size_t done = 0, failed_at = count;
  std::exception_ptr failure;

  const auto work = [&] {
    for (size_t i; (i = next++) < count;) {
      if (options.stop && options.stop()) stopped = true;
      if (stopped) return;
      std::exception_ptr error;
      try {
        body(i);
      } catch (...) {
        error = std::current_exception();
      }
      const std::lock_guard lock(mutex);
      if (error && i < failed_at) failure = error, failed_at = i;
      if (error) next = count;
      ++done;
      if (options.progress && !failure) options.progress(done, count);
    }
  };
  {
    std::vector<std::jthread> threads;
    const size_t most = std::min<size_t>(std::max(options.threads, 1), count);
    try {
      while (threads.size() + 1 < most) threads.emplace_back(work);
    } catch (const std::system_error&) {  // no more are allowed: fewer do it
    }
    work();
  }
  if (failure) std::rethrow_exception(failure);
  require(!stopped, Failure::preempted, "stopped after {} of {} images", done, count);
}

}  // namespace engine
