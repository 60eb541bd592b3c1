// The logical cores of this host, and how ranks divide them.
#pragma once

#include <span>
#include <vector>

#include "engine/affinity.h"

namespace engine {

int available_cores();  // that the calling thread may run on

// A logical core: one hardware thread of a physical core, whose numbers repeat in every package.
struct LogicalCore {
  int number = 0, package = 0, physical = 0;
};
// What the kernel tells of these cores; one that it tells nothing of is a physical core.
std::vector<LogicalCore> describe_cores(std::span<const int> numbers);

// Consecutive physical cores, with all their hardware threads, for part `part` of `parts`; hardware
// threads where there are fewer physical cores than parts; nothing where there are fewer of either,
// or no more than one part.
std::vector<int> cores_of_part(std::vector<LogicalCore> cores, int part, int parts);

// How many cores are left to a process, at least one, where several may run on the same ones.
// `mine` is its place in `cores`, which has those that each process of its host may run on.
int share_of_cores(std::span<const std::vector<int>> cores, int mine);

}  // namespace engine
