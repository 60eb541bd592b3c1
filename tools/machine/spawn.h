// Starts the ranks of a command as processes of their own, so that one that fails takes no other's
// memory with it.
#pragma once

#include <string>
#include <vector>

#include "tools/machine/device.h"

namespace engine {

// How many processes the flags ask this one to start; 1: it is itself a rank.
int processes_to_start(const DeviceOptions& options);

// Starts this program `count` times with these arguments and the variables of torchrun, and waits
// for all. SIGTERM, SIGINT and SIGUSR1 are passed on. The processes end with this one, however it
// ends. Returns the exit code of the first that failed; one that a signal ended, and one whose
// failure is only that of another (Failure::collective), gives way to a cause. A minute after a
// failure those that still run are ended by force, but for those that save after a signal.
int run_processes(int count, const std::vector<std::string>& arguments);

}  // namespace engine
