// The one exception type, and the exit code that each kind of failure ends the program with.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace engine {

// Process exit codes; 0 is success, 1 an internal error. Scripts rely on these values.
enum class Failure {
  internal = 1,
  usage = 2,       // unknown flag, value out of range
  data = 3,        // missing or unreadable data set, image
  weights = 4,     // invalid weight file or checkpoint
  diverged = 5,    // the loss is not finite
  memory = 6,      // a plan that does not fit
  collective = 7,  // a peer timed out or was lost
  check = 8,       // parity or a verification failed
  network = 9,     // a file did not come from its server: offline, refused, cut off
  preempted = 75,  // stopped by a signal, checkpoint saved (EX_TEMPFAIL)
};

// One line for the user: it names the file, layer or flag and the numbers.
struct Error : std::runtime_error {
  Error(Failure kind, const std::string& message) : std::runtime_error(message), kind(kind) {}
  Failure kind;
};

template <class... Args>
[[noreturn]] void fail(Failure kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// Checks what comes from outside the program; programmer errors are asserts.
template <class... Args>
void require(bool condition, Failure kind, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace engine
