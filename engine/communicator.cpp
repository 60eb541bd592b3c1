#include "engine/communicator.h"

#include <algorithm>
#include <cstring>

#include "engine/error.h"

namespace engine {

namespace {

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  const uint64_t size = bytes.size();
  const auto header = std::as_bytes(std::span(&size, 1));
  to.insert(to.end(), header.begin(), header.end());
  to.insert(to.end(), bytes.begin(), bytes.end());
}

// Gathers what every rank of every process brings: a process sends its ranks' bytes one after the
// other, each behind its length.
std::vector<std::vector<std::byte>> gather_ranks(
    Wire& wire, const std::vector<std::span<const std::byte>>& here) {
  std::vector<std::byte> joined;
  for (const auto& bytes : here) append(joined, bytes);
  std::vector<std::vector<std::byte>> all;
  for (const std::vector<std::byte>& process : wire.gather(joined))
    for (auto at = process.begin(); at != process.end();) {
      uint64_t size = 0;
      std::memcpy(&size, &*at, sizeof size);
      at += sizeof size;
      all.emplace_back(at, at + static_cast<ptrdiff_t>(size));
      at += static_cast<ptrdiff_t>(size);
    }
  return all;
}

}  // namespace

// A rank's part in one operation, from its call to its end.
class Group::Operation {
 public:
  Operation(Group& group, int rank, const Errand& errand)
      : group_(group), index_(rank - group.first()) {
    group_.errands_[index_] = errand;
    ++group_.begun_[index_];
  }
  ~Operation() { ++group_.ended_[index_]; }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

 private:
  Group& group_;
  int index_;
};

Group::Group(int local, std::shared_ptr<Wire> wire)
    : local_(local),
      wire_(std::move(wire)),
      shared_(local),
      errands_(local),
      begun_(local),
      ended_(local),
      brought_(local) {}

std::optional<std::string> Group::aborted() const {
  const std::lock_guard lock(mutex_);
  return aborted_.empty() ? std::nullopt : std::optional(aborted_);
}

void Group::check() const {
  const std::lock_guard lock(mutex_);
  check_locked();
}

void Group::check_locked() const {
  require(aborted_.empty(), Failure::collective, "another rank stopped: {}", aborted_);
}

Reached Group::reached(int rank) const {
  return {.begun = begun_[rank - first()], .ended = ended_[rank - first()]};
}

// What to say if the ranks of this process have come to different operations, else nothing. Most of
// them are right.
std::string Group::disagreement() const {
  const auto alike = [&](const Errand& errand) { return std::ranges::count(errands_, errand); };
  const auto usual = std::ranges::max_element(errands_, {}, alike);
  const auto odd = std::ranges::find_if(errands_, [&](const Errand& e) { return e != *usual; });
  if (odd == errands_.end()) return "";
  const auto text = [&](auto at) {
    const std::string size = at->bytes > 0 ? fmt::format(" of {} bytes", at->bytes) : "";
    return fmt::format("rank {} came to a {}{}", first() + (at - errands_.begin()), at->name, size);
  };
  return fmt::format("{} where {}: one has left something out", text(odd), text(usual));
}

void Group::meet() {
  if (local_ == 1 && !wire_) return;
  std::unique_lock lock(mutex_);
  check_locked();
  const uint64_t generation = generation_;
  if (++arrived_ == local_) {
    if (std::string found = disagreement(); !found.empty()) {
      lock.unlock();
      abort(found);
      fail(Failure::collective, "{}", found);
    }
    arrived_ = 0;
    ++generation_;
    changed_.notify_all();
    return;
  }
  changed_.wait(lock, [&] { return generation_ != generation || !aborted_.empty(); });
  if (generation_ == generation) check_locked();
}

void Group::barrier(int rank) {
  const Operation operation(*this, rank, {"barrier"});
  meet();
  if (!wire_) return;
  if (leads(rank)) wire_->barrier();
  meet();
}

void Group::abort(const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    if (!aborted_.empty()) return;
    aborted_ = why;
    changed_.notify_all();
  }
  if (wire_) wire_->abort(why);
}

void Group::broadcast(int rank, std::span<std::byte> bytes) {
  if (ranks() == 1) return;
  const Operation operation(*this, rank, {"broadcast", bytes.size()});
  if (leads(rank)) {
    if (wire_) wire_->broadcast(bytes);
    shared_[0] = bytes.data();
  }
  meet();
  if (!leads(rank)) std::memcpy(bytes.data(), shared_[0], bytes.size());
  meet();
}

std::vector<std::vector<std::byte>> Group::gather(int rank, std::span<const std::byte> bytes) {
  const Operation operation(*this, rank, {"gathering"});
  brought_[rank - first()] = bytes;
  meet();
  if (leads(rank)) {
    if (wire_) {
      gathered_ = gather_ranks(*wire_, brought_);
    } else {
      gathered_.clear();
      for (const auto& one : brought_) gathered_.emplace_back(one.begin(), one.end());
    }
  }
  meet();
  std::vector<std::vector<std::byte>> all = gathered_;
  meet();
  return all;
}

// Every rank adds up one share of the elements, in rank order, and leaves the sums with all of
// them; nobody else reads or writes that share. Then the processes add up, through their first
// rank.
template <class R>
void Group::sum(int rank, std::span<R> values) {
  if (ranks() == 1) return;
  const Operation operation(*this, rank, {"sum", values.size_bytes()});
  const int index = rank - first();
  shared_[index] = values.data();
  meet();
  const size_t begin = values.size() * index / local_, end = values.size() * (index + 1) / local_;
  const auto of_rank = [&](int r) { return static_cast<R*>(shared_[r]); };
  constexpr size_t kBlock = 1024;  // elements that stay in the nearest cache
  R sums[kBlock];
  for (size_t at = begin; at < end; at += kBlock) {
    const size_t count = std::min(kBlock, end - at);
    std::copy_n(of_rank(0) + at, count, sums);
    for (int r = 1; r < local_; ++r) {
      const R* other = of_rank(r) + at;
      for (size_t i = 0; i < count; ++i) sums[i] += other[i];
    }
    for (int r = 0; r < local_; ++r) std::copy_n(sums, count, of_rank(r) + at);
  }
  meet();
  if (!wire_) return;
  if (index == 0) wire_->sum(values);
  meet();
  if (index != 0) std::copy_n(of_rank(0), values.size(), values.data());
  meet();
}

template void Group::sum<float>(int, std::span<float>);
template void Group::sum<double>(int, std::span<double>);

}  // namespace engine
