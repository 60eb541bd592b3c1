#include "engine/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

namespace engine {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Written by the device, or by a thread of the rank.
uint64_t load(const uint64_t& mark) {
  return std::atomic_ref(const_cast<uint64_t&>(mark)).load(std::memory_order_acquire);
}

constexpr uint64_t low_half(uint64_t number) {
  return number & 0xFFFFFFFF;
}

// The ranks of a process as it published them; as they begin, where it has not.
std::vector<RankStatus> statuses_of(const PeerStatus& peer, int process, int local) {
  std::vector<RankStatus> ranks(local);
  if (peer.status.size() == ranks.size() * sizeof(RankStatus))
    std::memcpy(ranks.data(), peer.status.data(), peer.status.size());
  else
    for (int r = 0; r < local; ++r) ranks[r].rank = process * local + r;
  return ranks;
}

}  // namespace

// ---------------------------------------------------------------- a rank

Activity::Activity() : since_(now()) {}

void Activity::set(Doing doing, int64_t update) {
  if (update > 0) update_.store(update, std::memory_order_relaxed);
  since_.store(now(), std::memory_order_relaxed);
  doing_.store(doing, std::memory_order_relaxed);
}

void Activity::expect(uint64_t step, int64_t update) {
  const uint64_t ordinal = low_half(last_) + 1;
  std::atomic<uint64_t>& entry = ordinals_[step % kResults];
  past_ = std::max<uint64_t>(past_, low_half(entry));
  entry = low_half(step) << 32 | low_half(ordinal);
  last_ = low_half(static_cast<uint64_t>(update)) << 32 | low_half(ordinal);
}

void Activity::observe(std::span<const CollectiveMark> marks,
                       std::function<std::string()> awaited) {
  const std::lock_guard lock(observing_);
  settled_ = reached();
  marks_ = marks;
  awaited_ = std::move(awaited);
}

RankStatus Activity::status() {
  RankStatus status{.doing = doing_.load(std::memory_order_relaxed),
                    .doing_for = now() - since_.load(std::memory_order_relaxed),
                    .update = update_.load(std::memory_order_relaxed)};
  const std::lock_guard lock(observing_);
  status.buckets = static_cast<int32_t>(marks_.size());
  status.sums = reached();
  if (const uint64_t last = last_; last > 0)
    status.updates_before = static_cast<int64_t>(last >> 32) - static_cast<int64_t>(low_half(last));
  if (status.doing == Doing::loading && awaited_) {
    const std::string file = awaited_();
    const size_t kept = std::min(file.size(), status.detail.size() - 1);  // the end says which
    std::copy(file.end() - static_cast<ptrdiff_t>(kept), file.end(), status.detail.begin());
  }
  return status;
}

// What has ended has begun, also where the latter is read later.
Reached Activity::reached() {
  const uint64_t ended = std::max(settled_.ended, furthest(&CollectiveMark::ended));
  return {std::max({settled_.begun, ended, furthest(&CollectiveMark::began)}), ended};
}

// The number of the last sum that was begun, or ended, by these marks.
uint64_t Activity::furthest(uint64_t CollectiveMark::*reached) const {
  uint64_t most = 0;
  for (size_t b = 0; b < marks_.size(); ++b)
    if (const uint64_t ordinal = ordinal_of(load(marks_[b].*reached)); ordinal > 0)
      most = std::max(most, (ordinal - 1) * marks_.size() + b + 1);
  return std::max<uint64_t>(most, past_ * marks_.size());  // read last, after what it replaces
}

// 0: it is no update, or one long past.
uint64_t Activity::ordinal_of(uint64_t step) const {
  const uint64_t entry = ordinals_[step % kResults];
  return entry >> 32 == low_half(step) ? low_half(entry) : 0;
}

// ---------------------------------------------------------------- all ranks

Watchdog::Watchdog(WatchdogOptions options)
    : options_(std::move(options)), seen_(options_.group->local()) {
  for (int r = 0; r < options_.group->local(); ++r)
    activities_.push_back(std::make_unique<Activity>());
  for (Seen& seen : seen_) seen.operations_at = seen.sums_at = now();
  if (options_.group->ranks() > 1) thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  stop();
}

void Watchdog::stop() {
  note(&Watchdog::leaving_, true);
  if (thread_.joinable()) thread_.join();
}

bool Watchdog::wait(double seconds) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                            [this] { return leaving_ && !telling_; });
}

void Watchdog::note(bool Watchdog::*flag, bool value) {
  {
    const std::lock_guard lock(mutex_);
    this->*flag = value;
  }
  changed_.notify_all();
}

void Watchdog::watch() {
  const double period = std::clamp(options_.timeout / 20, 0.02, 1.);
  while (wait(period)) {
    if (const auto why = options_.group->aborted()) {
      if (wait(options_.timeout)) options_.end(*why);
      return;
    }
    if (const auto verdict = judge_now()) return act(*verdict);
    if (options_.lifeline)
      if (const auto why = options_.lifeline->aborted()) return act(*why);
  }
}

std::optional<std::string> Watchdog::judge_now() {
  const std::vector<RankStatus> here = statuses();
  if (options_.lifeline) options_.lifeline->publish(std::as_bytes(std::span(here)));
  return judge(views(here), options_.timeout);
}

// A process may be seen to be gone on one connection before it is on the other.
std::optional<std::string> Watchdog::conclude() {
  constexpr auto kAfterthought = std::chrono::seconds(1);
  stop();
  const auto until = std::chrono::steady_clock::now() + kAfterthought;
  while (!verdict_ && options_.lifeline && std::chrono::steady_clock::now() < until) {
    verdict_ = judge_now();
    if (!verdict_) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return verdict_;
}

// What tells or aborts may hang as well: the process ends all the same.
void Watchdog::act(const std::string& verdict) {
  verdict_ = verdict;
  note(&Watchdog::telling_, true);
  std::thread last([&] {
    if (wait(options_.grace)) options_.end(verdict);
  });
  try {
    options_.tell(verdict);
  } catch (const std::exception&) {  // a full disk; the verdict stands all the same
  }
  options_.group->abort(verdict);
  note(&Watchdog::telling_, false);
  last.join();
}

std::vector<RankStatus> Watchdog::statuses() {
  Group& group = *options_.group;
  std::vector<RankStatus> ranks;
  for (int r = 0; r < group.local(); ++r) {
    RankStatus& rank = ranks.emplace_back(activities_[r]->status());
    rank.rank = group.first() + r;
    if (!options_.devices.empty()) rank.device = options_.devices[r];
    rank.operations = group.reached(rank.rank);
    Seen& seen = seen_[r];
    const double time = now();
    if (std::exchange(seen.sums, rank.sums) != rank.sums) seen.sums_at = time;
    if (std::exchange(seen.operations, rank.operations) != rank.operations)
      seen.operations_at = time;
    rank.sums_for = time - seen.sums_at;
    rank.operations_for = time - seen.operations_at;
  }
  return ranks;
}

std::vector<RankView> Watchdog::views(const std::vector<RankStatus>& here) const {
  std::vector<RankView> ranks;
  if (!options_.lifeline) {
    for (const RankStatus& status : here)
      ranks.push_back({.status = status, .host = options_.host, .local = true});
    return ranks;
  }
  const std::vector<PeerStatus> peers = options_.lifeline->peers();
  for (int process = 0; process < static_cast<int>(peers.size()); ++process) {
    const PeerStatus& peer = peers[process];
    const bool local = process == options_.lifeline->process();
    for (RankStatus status : local ? here : statuses_of(peer, process, options_.group->local())) {
      if (peer.left) status.doing = Doing::ended;
      ranks.push_back({.status = status,
                       .host = local ? options_.host : peer.host,
                       .process = process,
                       .age = local ? 0 : peer.age,
                       .lost = !local && peer.lost && !peer.left,
                       .local = local});
    }
  }
  return ranks;
}

}  // namespace engine
