// What a device reaches at most: the rates that a roofline stands on, measured where the step runs.
#pragma once

#include <cstddef>

#include "engine/backend.h"
#include "engine/ceilings.h"

namespace engine {

// On a GPU: see engine/cuda/bench.h. Elsewhere: a copy with all threads of this rank, and a
// pointwise convolution of the backend; the best of several runs. Ranks that share a machine
// measure at the same time, as they compute at the same time.
Ceilings measure_ceilings(Backend& backend, const BackendOptions& options);

// From pinned host memory to the device; on a CPU a copy by one thread.
double upload_bytes_per_s(Backend& backend, size_t bytes);

}  // namespace engine
