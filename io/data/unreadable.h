// What is said where an image that cannot be read ends the work.
#pragma once

#include <exception>

#include "engine/error.h"

namespace engine {

// Throws what made the image unreadable, with what can be done about it.
[[noreturn]] inline void fail_unreadable(const std::exception& error) {
  fail(Failure::data,
       "{}; engine check-data names all such files, --on-bad-image skip passes over them",
       error.what());
}

}  // namespace engine
