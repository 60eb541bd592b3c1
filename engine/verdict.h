// Which rank keeps the others waiting: what every rank is known to be at, and what follows from it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include "engine/communicator.h"

namespace engine {

// What the thread of a rank is at. While it waits for other ranks, what it was at before stands.
enum class Doing : uint8_t { starting, loading, computing, validating, saving, ended };

// What a rank is at, at one moment. Processes of one program tell it each other as it lies in
// memory.
struct RankStatus {
  int32_t rank = 0;
  int32_t device = -1;  // GPU; −1: none
  int32_t buckets = 0;  // sums of gradients in an update
  Doing doing = Doing::starting;
  double doing_for = 0;  // seconds
  int64_t update = 0;    // the one under way or done last, from 1
  // Operations of its thread with the other ranks, and for how many seconds these numbers stand.
  Reached operations;
  double operations_for = 0;
  // The same for the sums of gradients, as its device tells: that of bucket b in the rank's n-th
  // update with sums is number (n − 1) · buckets + b + 1.
  Reached sums;
  double sums_for = 0;
  // The number of an update less its n: as long as no rank has left sums out, the same on all of
  // them. −1: there has been no update.
  int64_t updates_before = -1;
  std::array<char, 128> detail{};  // the file that it waits for; a text that 0 ends
};
static_assert(std::is_trivially_copyable_v<RankStatus>);

// The same with what is known of its process.
struct RankView {
  RankStatus status;
  std::string host;  // empty: not worth saying
  int process = 0;
  double age = 0;      // seconds since its process gave a sign of life
  bool lost = false;   // its process is gone, without a good-bye
  bool local = false;  // in the process that judges
};

// What is wrong, in one line that names the ranks at fault; nothing while everybody may still come
// within `timeout` seconds. In this order:
// - ranks whose process is gone;
// - ranks whose process gives no sign of life. If that of process 0 is among them it alone is
//   named, because the others' signs come through it;
// - ranks that have made updates without the sums of gradients that others have made;
// - ranks that have not come to where others wait.
std::optional<std::string> judge(std::span<const RankView> ranks, double timeout);

}  // namespace engine
