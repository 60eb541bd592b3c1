// Why training cannot go on: a number that is not finite, and where it came up first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/communicator.h"

namespace engine {

struct Divergence {
  int epoch = 0;         // from 0
  int64_t position = 0;  // in the epoch, of the update's first image over all ranks
  int64_t update = 0;    // its number in the run, from 1
  double rate = 0;       // its learning rate
  std::string what;      // "the loss is nan"
  int rank = 0;          // whose images these are
  std::string first;     // its first result that is not finite; empty: not known, or there is none
  std::vector<std::string> images;  // of the update, of that rank
};

// The earliest of what the ranks have met, the same on every rank; of one update that of a rank
// which knows the first result. Nothing where none met anything. Every rank calls it.
std::optional<Divergence> earliest(const Communicator& communicator,
                                   const std::optional<Divergence>& own);

// One line for the user, with at most eight of the images.
std::string to_string(const Divergence& divergence);

}  // namespace engine
