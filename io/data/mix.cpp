#include "io/data/mix.h"

#include <algorithm>
#include <cmath>

namespace engine {
namespace {

// Uniform in (0, 1].
double positive(Rng& rng) {
  return 1.0 - rng.uniform();
}

// Samples Gamma(alpha, 1) and returns the logarithm, because small alphas underflow: Marsaglia and
// Tsang 2000 for alpha + 1, which is at least 1, times u^(1 / alpha).
double log_gamma_number(double alpha, Rng& rng) {
  const double d = alpha + 1 - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = rng.normal(), u = positive(rng);
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0 || std::log(u) >= 0.5 * x * x + d * (1 - v + std::log(v))) continue;
    return std::log(d * v) + std::log(positive(rng)) / alpha;
  }
}

}  // namespace

double sample_beta(double alpha, Rng& rng) {
  const double a = log_gamma_number(alpha, rng), b = log_gamma_number(alpha, rng);
  return 1 / (1 + std::exp(b - a));
}

std::vector<Mix> sample_mixes(const Mixing& mixing, RandomKey key, int count, int height,
                              int width) {
  std::vector<Mix> mixes(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i)
    mixes[static_cast<size_t>(i)] = {.partner = count - 1 - i, .share = 1};
  key.purpose = purpose("mix");
  Rng rng(key);
  if (!mixing.used() || !rng.chance(mixing.probability)) return mixes;

  const bool both = mixing.mixup > 0 && mixing.cutmix > 0;
  const bool cut = both ? rng.chance(mixing.switch_probability) : mixing.cutmix > 0;
  Mix sampled{.share = static_cast<float>(sample_beta(cut ? mixing.cutmix : mixing.mixup, rng))};
  if (cut) {
    const double side = std::sqrt(1.0 - sampled.share);
    const int box_height = static_cast<int>(height * side);
    const int box_width = static_cast<int>(width * side);
    const int y = static_cast<int>(rng.below(static_cast<uint32_t>(height)));
    const int x = static_cast<int>(rng.below(static_cast<uint32_t>(width)));
    sampled.top = static_cast<int16_t>(std::clamp(y - box_height / 2, 0, height));
    sampled.bottom = static_cast<int16_t>(std::clamp(y + box_height / 2, 0, height));
    sampled.left = static_cast<int16_t>(std::clamp(x - box_width / 2, 0, width));
    sampled.right = static_cast<int16_t>(std::clamp(x + box_width / 2, 0, width));
    // The share is what the box leaves after it was cut at the edges.
    const int area = (sampled.bottom - sampled.top) * (sampled.right - sampled.left);
    sampled.share = area > 0 ? static_cast<float>(1 - double(area) / (double(height) * width)) : 1;
  }
  for (Mix& mix : mixes) {
    sampled.partner = mix.partner;
    mix = sampled;
  }
  return mixes;
}

}  // namespace engine
