#include "tools/cli/signals.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

#include "engine/error.h"
#include "tools/cli/terminal.h"

namespace engine {

namespace {

std::atomic<int> requested = 0;  // the signal's number
static_assert(std::atomic<int>::is_always_lock_free);

// A handler may do little more than write().
void acknowledge(std::string_view text) {
  if (is_silent()) return;
  const int before = errno;
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, text.data(), text.size());
  errno = before;
}

extern "C" void on_stop_signal(int number) {
  if (number == SIGINT && requested != 0) _exit(130);
  if (requested == 0)
    acknowledge(number == SIGINT ? "\nstopping after this step; again: at once, unsaved\n"
                                 : "\nstopping after this step\n");
  requested = number;
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) sigaction(number, &action, nullptr);
}

bool stop_requested() {
  return requested != 0;
}

std::string stop_signal_name() {
  switch (requested) {
    case SIGINT: return "Ctrl-C";
    case SIGTERM: return "SIGTERM";
    case SIGUSR1: return "SIGUSR1";
    default: return "nothing";
  }
}

void stop_if_requested(std::string_view doing) {
  require(!stop_requested(), Failure::preempted, "stopped by {} while {}", stop_signal_name(),
          doing);
}

}  // namespace engine
