#include "engine/rng.h"

#include <cmath>
#include <numbers>

namespace engine {

// Box–Muller; 1 − u lies in (0, 1].
float Rng::normal() {
  const float radius = std::sqrt(-2.f * std::log(1.f - uniform()));
  return radius * std::cos(2.f * std::numbers::pi_v<float> * uniform());
}

}  // namespace engine
