// The logical cores that a thread may run on.
#pragma once

#include <span>
#include <vector>

namespace engine {

// In the affinity mask of the calling thread, ascending; at least one.
std::vector<int> allowed_cores();

// The calling thread, and those that it starts from now on, run on these cores alone. Nothing
// happens where none is given or the kernel refuses.
void run_on(std::span<const int> cores);

}  // namespace engine
