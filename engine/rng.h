// A sequential view of one counter-based stream, for host code that draws several numbers in order.
#pragma once

#include "kernels/random.h"

namespace engine {

class Rng {
 public:
  explicit Rng(const RandomKey& key) : key_(key) {}

  uint32_t bits() {
    if (used_ == 4) block_ = philox(key_, next_++), used_ = 0;
    return block_.bits[used_++];
  }
  float uniform() { return engine::uniform(bits()); }  // [0, 1)
  float uniform(float low, float high) { return low + (high - low) * uniform(); }
  // [0, n), n > 0; by Lemire's multiplication: a bias of at most n / 2^32.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(uint64_t{bits()} * n >> 32); }
  bool chance(float probability) { return uniform() < probability; }
  float normal();  // mean 0, variance 1

 private:
  RandomKey key_;
  Random4 block_{};
  uint32_t next_ = 0, used_ = 4;
};

}  // namespace engine
