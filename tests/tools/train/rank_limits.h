// How long runs with ranks that fail may take.
#pragma once

#include <chrono>

namespace engine::test {

// Seconds: of runs in which a rank is to be judged, and of those in which none is, however busy the
// machine.
constexpr int kTimeout = 8, kPatience = 300;
// The timeout and the grace are 18 s; the rest is for a machine that is busy.
constexpr std::chrono::minutes kInTime(3);

}  // namespace engine::test
