// Units that people read.
#pragma once

namespace engine {

constexpr double mib(double bytes) {
  return bytes / 0x1p20;
}

}  // namespace engine
