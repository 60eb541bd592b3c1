// What goes wrong in a run because a test asks for it, so that it is seen what becomes of the run.
#pragma once

#include <cstdint>

#include "io/data/loader.h"

namespace engine {

enum class RankFault : uint8_t {
  none,
  throws,        // an exception
  stalls,        // the rank's thread does nothing for ever
  skips,         // the rank goes on without the step
  loads_slowly,  // an image takes `seconds`
  is_killed,
  is_stopped,
};

struct TestFault {
  RankFault kind = RankFault::none;
  int rank = 0;
  int64_t step = 1;  // an update; of loads_slowly, a step of the first epoch
  double seconds = 0;

  // Every rank calls it in every update; true where it is to be left out.
  bool in_step(int at_rank, int64_t at_step) const;
  // The same as `prepare` where nothing is to go wrong. `batch` images make a step of a rank.
  Prepare in_loading(Prepare prepare, int batch, Share share) const;
};

// Of $ENGINE_TEST_FAULT, "rank=1,step=5,kind=stall"; null: none. Kinds are throw, stall, skip, kill
// and stop (the rank's process gets SIGKILL or SIGSTOP), and slow-loader with seconds=S. Anything
// else is an Error(usage).
TestFault parse_test_fault(const char* text);

}  // namespace engine
