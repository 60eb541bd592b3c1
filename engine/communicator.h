// The ranks of a run: threads of one process, or of several. They meet, tell each other bytes, and
// add up; a world of one is the same code with nobody to wait for.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace engine {

// What carries between processes. All processes call the same operations in the same order, each
// from one thread at a time. An operation throws Error(collective) where a process is gone or has
// given up.
class Wire {
 public:
  virtual ~Wire() = default;
  virtual int process() const = 0;  // which of `processes()` this one is
  virtual int processes() const = 0;
  virtual void barrier() = 0;
  // Every process gets process 0's bytes.
  virtual void broadcast(std::span<std::byte> bytes) = 0;
  // The bytes that each process brings, by process; their numbers may differ.
  virtual std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes) = 0;
  // Adds up element by element in process order: the same bits in every process.
  virtual void sum(std::span<float> values) = 0;
  virtual void sum(std::span<double> values) = 0;
  // Tells the other processes that this one gives up; any thread may call it.
  virtual void abort(const std::string& why) noexcept = 0;
};

// How far a rank is with what it does together with others: what it has begun so far, and ended.
struct Reached {
  uint64_t begun = 0, ended = 0;
  bool operator==(const Reached&) const = default;
};

// All ranks call the same operations in the same order. Where those of one process do not, each
// gets an Error(collective) that says who came to what.
class Group {
 public:
  // `local` ranks in this process, and as many in every other that `wire` leads to.
  explicit Group(int local, std::shared_ptr<Wire> wire = nullptr);

  int ranks() const { return local_ * (wire_ ? wire_->processes() : 1); }  // in all processes
  int local() const { return local_; }
  int first() const { return wire_ ? wire_->process() * local_ : 0; }  // rank of this process
  void barrier(int rank);  // throws Error(collective) if a rank has given up
  // Every rank gets rank 0's bytes.
  void broadcast(int rank, std::span<std::byte> bytes);
  // Every rank gets the bytes of all, by rank; their numbers may differ.
  std::vector<std::vector<std::byte>> gather(int rank, std::span<const std::byte> bytes);
  // Adds up element by element, in the order of the ranks of a process, then of the processes: the
  // same bits on every rank. For float and double.
  template <class R>
  void sum(int rank, std::span<R> values);
  // Wakes every rank that waits, now or later, with `why`.
  void abort(const std::string& why);

  // ---- any thread may ask
  std::optional<std::string> aborted() const;  // the first `why`
  void check() const;                          // throws Error(collective) once a rank gave up
  Reached reached(int rank) const;             // of the operations; a rank of this process

 private:
  class Operation;
  // What a rank came to.
  struct Errand {
    const char* name = "";
    size_t bytes = 0;
    bool operator==(const Errand&) const = default;
  };
  void meet();  // of the ranks of this process
  void check_locked() const;
  std::string disagreement() const;
  bool leads(int rank) const { return rank == first(); }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int local_, arrived_ = 0;
  std::shared_ptr<Wire> wire_;  // null: one process
  uint64_t generation_ = 0;
  std::string aborted_;
  std::vector<void*> shared_;  // one address per rank of this process
  std::vector<Errand> errands_;
  std::vector<std::atomic<uint64_t>> begun_, ended_;
  std::vector<std::span<const std::byte>> brought_;
  std::vector<std::vector<std::byte>> gathered_;
};

// One rank's place in its group.
struct Communicator {
  int rank = 0;
  std::shared_ptr<Group> group = std::make_shared<Group>(1);
  int ranks() const { return group->ranks(); }
  int local() const { return rank - group->first(); }  // among the ranks of this process
};

}  // namespace engine
