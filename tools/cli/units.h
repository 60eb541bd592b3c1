// Units that people read.
#pragma once

#include <string>

namespace engine {

constexpr double mib(double bytes) {
  return bytes / 0x1p20;
}

std::string duration_text(double seconds);  // "0.4 s", "42 s", "2.5 min", "40 min", "3.4 h"

}  // namespace engine
