// What several ranks make of their shares, handed on in the order of the images.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "engine/error.h"

namespace engine {

// Threads put what they have of the images [first, first + count); `take` gets it in that order,
// one call at a time, with no gaps between the calls. Who is too far ahead of the others waits, so
// that little is kept.
template <class T>
class InOrder {
 public:
  InOrder(int64_t ahead, std::function<void(T&&)> take) : ahead_(ahead), take_(std::move(take)) {}

  // Throws what `take` throws, and Error(collective) where another thread has called abort().
  void put(int64_t first, int64_t count, T value) {
    std::unique_lock lock(mutex_);
    moved_.wait(lock, [&] { return aborted_ || first - next_ < ahead_; });
    require(!aborted_, Failure::collective, "another rank has failed");
    waiting_.emplace(first, std::pair(count, std::move(value)));
    while (!waiting_.empty() && waiting_.begin()->first == next_) {
      auto node = waiting_.extract(waiting_.begin());
      take_(std::move(node.mapped().second));
      next_ += node.mapped().first;
    }
    moved_.notify_all();
  }

  // Wakes the threads that wait.
  void abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    moved_.notify_all();
  }

 private:
  const int64_t ahead_;
  const std::function<void(T&&)> take_;
  std::mutex mutex_;
  std::condition_variable moved_;
  int64_t next_ = 0;  // the first image that `take` has not got
  std::map<int64_t, std::pair<int64_t, T>> waiting_;
  bool aborted_ = false;
};

}  // namespace engine
