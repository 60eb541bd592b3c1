// What a device reaches at most, measured on it; and the time that a cost takes there at least.
#pragma once

#include <algorithm>

#include "engine/launch.h"

namespace engine {

struct Ceilings {
  double copy_bytes_per_s = 0;     // a copy far larger than any cache, read and write counted
  double product_flops_per_s = 0;  // a large product of matrices in the run's precision
};

// Nothing is faster than its bytes at the copy's rate and its flops at the product's.
inline double least_ms(const Ceilings& ceilings, const Cost& cost) {
  return 1e3 * std::max(cost.bytes / ceilings.copy_bytes_per_s,
                        cost.flops / ceilings.product_flops_per_s);
}

}  // namespace engine
