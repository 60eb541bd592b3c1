// The ranks of the processes that a launcher started.
#pragma once

#include <exception>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tools/machine/device.h"
#include "tools/machine/launcher.h"

namespace engine {

// The ranks of this process among those of all; without a launcher they are all there are. A rank's
// number is process · ranks of a process + its place in the process, so every process must have as
// many, on the same kind of device: else Error(usage). `stop` is polled while the others are
// awaited and ends that with Error(preempted).
Ranks join_ranks(const DeviceOptions& options, const std::function<bool()>& stop);

// Other ranks of the processes that `joined` found, of which each calls this with the same options.
Ranks ranks_among(const Ranks& joined, const DeviceOptions& options);
// The ranks of a process that is alone for the time being, whatever a launcher has started.
Ranks lone_ranks(const DeviceOptions& options);

// Wakes the other processes with the reason why this one ends. One that a signal stopped says
// nothing.
void tell_others(const Ranks& ranks, const std::exception& why);

// The text that process 0 brings, in every process.
std::string from_process_0(const Ranks& ranks, const std::string& text);
// What every process brings, by process. These are for the time before the ranks begin.
std::vector<std::string> from_every_process(const Ranks& ranks, const std::string& text);

// Calls `work` in process 0 alone, however long it takes there, and returns its text in every
// process.
std::string made_by_process_0(const Ranks& ranks, const std::function<std::string()>& work);

// ---- how ranks are chosen; choose_ranks() and join_ranks() consist of these

// Kind, precision and devices of this process's ranks, without threads and group.
Ranks plan_ranks(const DeviceOptions& options, const Place& place);

// What a process may use of its host's cores.
struct CoreShare {
  int threads = 1;           // to compute with
  int cores = 1;             // to compute and load with
  int processes = 1;         // among which --workers is divided
  std::vector<int> allowed;  // where it may run
  int sharing = 1;           // processes that may run on just the same cores
  int before = 0;            // these that come before it
};
CoreShare all_cores(const DeviceOptions& options);  // of a process that is alone
void complete_ranks(Ranks& ranks, const DeviceOptions& options, const CoreShare& share);

}  // namespace engine
