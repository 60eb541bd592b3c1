// Watches over the ranks of a run: each notes what it is at, and a rank that is gone, that hangs or
// that has left a sum out is named, instead of the others waiting for it for ever.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/arenas.h"
#include "engine/communicator.h"
#include "engine/verdict.h"
#include "engine/wire/lifeline.h"

namespace engine {

// What one rank tells of itself: its own thread writes, the watchdog reads.
class Activity {
 public:
  Activity();
  Activity(const Activity&) = delete;
  Activity& operator=(const Activity&) = delete;

  void set(Doing doing, int64_t update = 0);  // 0: the same as before
  // The next step of the rank's session, number `step`, takes that update, with its sums.
  void expect(uint64_t step, int64_t update);
  // What the watchdog asks from now on, until the next call returns: the marks of the rank's sums,
  // and which file its loader waits for.
  void observe(std::span<const CollectiveMark> marks, std::function<std::string()> awaited);

 private:
  friend class Watchdog;
  RankStatus status();  // but for the operations and the place
  Reached reached();    // under `observing_`
  uint64_t furthest(uint64_t CollectiveMark::*reached) const;
  uint64_t ordinal_of(uint64_t step) const;

  std::atomic<Doing> doing_ = Doing::starting;
  std::atomic<double> since_;
  std::atomic<int64_t> update_ = 0;
  // The updates with sums so far, by how many there were: their ordinals. Low halves of a step's
  // number and of its ordinal, by the step modulo kResults.
  std::array<std::atomic<uint64_t>, kResults> ordinals_{};
  std::atomic<uint64_t> past_ = 0;  // the last that has made room there: its sums have ended
  std::atomic<uint64_t> last_ = 0;  // low halves of the last one's ordinal and of its update
  std::mutex observing_;            // guards what follows
  std::span<const CollectiveMark> marks_;
  Reached settled_;  // before these marks
  std::function<std::string()> awaited_;
};

struct WatchdogOptions {
  std::shared_ptr<Group> group;
  std::shared_ptr<Lifeline> lifeline;  // null: one process
  std::vector<int> devices;            // GPUs of the ranks of this process; empty: none
  std::string host;                    // of this process
  double timeout = 300;                // seconds that ranks may wait for one
  double grace = 10;                   // seconds after a verdict in which the process may end
  // Tells the user of a verdict; called once, from a thread of the watchdog's.
  std::function<void(const std::string& verdict)> tell;
  // Ends the process at once, since it does not end by itself.
  std::function<void(const std::string& why)> end;
};

// Judges all ranks until it is destroyed. After a verdict, its own or that of another process, it
// aborts the group, which wakes who waits. If the process then takes longer than the grace, or
// longer than the timeout after one of its ranks gave up by itself, it is ended. In a world of one
// rank there is nothing to watch.
class Watchdog {
 public:
  explicit Watchdog(WatchdogOptions options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  Activity& activity(int local) { return *activities_[local]; }  // of a rank of this process

  // Ends the watch, once the ranks of this process have ended. What is known to be wrong, also
  // where something that knows less, like a wire, was faster to wake them.
  std::optional<std::string> conclude();

 private:
  // The numbers of a rank, and when they were seen to change.
  struct Seen {
    Reached operations, sums;
    double operations_at = 0, sums_at = 0;
  };
  void watch();
  void stop();
  std::optional<std::string> judge_now();
  void act(const std::string& verdict);
  bool wait(double seconds);  // false once there is nothing to wait for any more
  void note(bool Watchdog::*flag, bool value);
  std::vector<RankStatus> statuses();
  std::vector<RankView> views(const std::vector<RankStatus>& here) const;

  const WatchdogOptions options_;
  std::vector<std::unique_ptr<Activity>> activities_;
  std::vector<Seen> seen_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool leaving_ = false, telling_ = false;
  std::optional<std::string> verdict_;  // the thread's; once it has ended, anybody's
  std::thread thread_;
};

}  // namespace engine
