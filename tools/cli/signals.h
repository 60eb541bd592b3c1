// Requests to stop. SIGTERM, SIGUSR1 (Slurm's warning) and the first Ctrl-C are only noted; every
// long loop asks for them, saves what there is to save, and ends with exit code 75. That they are
// heard is said at once. A second Ctrl-C ends the process at once, with 130.
#pragma once

#include <string>
#include <string_view>

namespace engine {

void catch_stop_signals();  // from now on, for the whole process

bool stop_requested();
std::string stop_signal_name();  // "SIGTERM"

// For loops before there is anything to save: throws Error(preempted), "stopped by SIGTERM while
// scanning images".
void stop_if_requested(std::string_view doing);

}  // namespace engine
