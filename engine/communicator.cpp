#include "engine/communicator.h"

#include <algorithm>

#include "engine/error.h"

namespace engine {

Group::Group(int ranks) : ranks_(ranks), shared_(ranks) {}

void Group::barrier() {
  if (ranks_ == 1) return;
  std::unique_lock lock(mutex_);
  const auto check = [&] {
    require(aborted_.empty(), Failure::collective, "another rank stopped: {}", aborted_);
  };
  check();
  const uint64_t generation = generation_;
  if (++arrived_ == ranks_) {
    arrived_ = 0;
    ++generation_;
    changed_.notify_all();
    return;
  }
  changed_.wait(lock, [&] { return generation_ != generation || !aborted_.empty(); });
  if (generation_ == generation) check();
}

void Group::abort(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (aborted_.empty()) aborted_ = why;
  changed_.notify_all();
}

void Group::broadcast(int rank, std::span<std::byte> bytes) {
  if (ranks_ == 1) return;
  if (rank == 0) shared_[0] = bytes.data();
  barrier();
  if (rank != 0) std::copy_n(static_cast<const std::byte*>(shared_[0]), bytes.size(), bytes.data());
  barrier();
}

// Every rank adds up one share of the elements, in rank order, and then copies the other shares.
template <class R>
void Group::sum(int rank, std::span<R> values) {
  if (ranks_ == 1) return;
  shared_[rank] = values.data();
  if (rank == 0) result_.resize(std::max(result_.size(), values.size_bytes()));
  barrier();
  R* result = reinterpret_cast<R*>(result_.data());
  const size_t first = values.size() * rank / ranks_, last = values.size() * (rank + 1) / ranks_;
  std::copy_n(static_cast<const R*>(shared_[0]) + first, last - first, result + first);
  for (int r = 1; r < ranks_; ++r) {
    const R* other = static_cast<const R*>(shared_[r]);
    for (size_t i = first; i < last; ++i) result[i] += other[i];
  }
  barrier();
  std::copy_n(result, values.size(), values.data());
  barrier();
}

template void Group::sum<float>(int, std::span<float>);
template void Group::sum<double>(int, std::span<double>);

}  // namespace engine
