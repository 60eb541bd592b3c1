// The logical cores of this host, and how ranks divide them.
#pragma once

#include <span>
#include <vector>

namespace engine {

// In the affinity mask of the calling thread, ascending.
std::vector<int> allowed_cores();
int available_cores();  // how many these are, at least one

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

// The calling thread, and those that it starts from now on, run on these cores alone. Nothing
// happens where none is given or the kernel refuses.
void run_on(std::span<const int> cores);

// How many cores are left to a process, at least one, where several may run on the same ones.
// `mine` is its place in `cores`, which has those that each process of its host may run on.
int share_of_cores(std::span<const std::vector<int>> cores, int mine);

}  // namespace engine
