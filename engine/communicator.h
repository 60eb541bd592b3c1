// Ranks of one process: threads that meet. A world of one is the same code with nobody to wait for.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace engine {

class Group {
 public:
  explicit Group(int ranks);

  int ranks() const { return ranks_; }
  void barrier();  // throws Error(collective) if a rank has given up
  // Every rank gets rank 0's bytes.
  void broadcast(int rank, std::span<std::byte> bytes);
  // Adds up element by element in rank order: the same bits on every rank. For float and double.
  template <class R>
  void sum(int rank, std::span<R> values);
  // Wakes every rank that waits, now or later, with `why`.
  void abort(const std::string& why);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int ranks_, arrived_ = 0;
  uint64_t generation_ = 0;
  std::string aborted_;
  std::vector<void*> shared_;  // one address per rank
  std::vector<std::byte> result_;
};

// One rank's place in its group.
struct Communicator {
  int rank = 0;
  std::shared_ptr<Group> group = std::make_shared<Group>(1);
  int ranks() const { return group->ranks(); }
};

}  // namespace engine
