// A ring of stages in shared memory, which the copy engine loads, one group of threads fills (makes
// of what was loaded what is wanted), and another one empties. Each of them meets the items of a
// run in their order and leaves none out, so that the parity of a phase says which one it is.
// sm_90.
#pragma once

#include <cstdint>

#include "kernels/barrier.cuh"

namespace engine::kernels {

struct Ring {
  uint32_t barriers;  // address of ring_bytes(stages)
  int stages;

  __device__ __forceinline__ uint32_t loaded(int stage) const { return barriers + 8 * stage; }
  __device__ __forceinline__ uint32_t full(int stage) const { return loaded(stages + stage); }
  __device__ __forceinline__ uint32_t empty(int stage) const { return loaded(2 * stages + stage); }

  // By one thread: so many arrive who have filled a stage, and who have emptied it.
  __device__ __forceinline__ void prepare(int filling, int emptying) const {
    for (int i = 0; i < stages; ++i) {
      barrier_init(loaded(i), 1);
      barrier_init(full(i), filling);
      barrier_init(empty(i), emptying);
    }
  }
};

// The stage of an item, and the parity of its phase.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance(const Ring& ring) {
    if (++stage == ring.stages) stage = 0, parity ^= 1;
  }
};

// Of the thread that asks the copy engine for the items.
struct RingRequests {
  int next = 0;
  RingPlace place;

  // Calls request(item, stage) for what has its stage empty, and for all up to item `needed`, for
  // which it waits.
  template <class Request>
  __device__ __forceinline__ void ask(const Ring& ring, int needed, int items, Request request) {
    for (; next < items; ++next) {
      if (next >= ring.stages) {
        const uint32_t before = place.parity ^ 1;
        if (next <= needed)
          barrier_wait(ring.empty(place.stage), before);
        else if (!barrier_test(ring.empty(place.stage), before))
          return;
      }
      request(next, place.stage);
      place.advance(ring);
    }
  }
};

}  // namespace engine::kernels
