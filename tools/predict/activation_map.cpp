#include "tools/predict/activation_map.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/error.h"
#include "io/images/decode.h"

namespace engine {
namespace {

constexpr std::array<Rgb, 17> kInferno = {{{0, 0, 4},
                                           {11, 7, 36},
                                           {33, 12, 74},
                                           {61, 9, 101},
                                           {87, 16, 110},
                                           {113, 25, 110},
                                           {138, 34, 106},
                                           {163, 44, 97},
                                           {188, 55, 84},
                                           {210, 70, 68},
                                           {228, 90, 49},
                                           {241, 115, 29},
                                           {249, 142, 9},
                                           {252, 172, 17},
                                           {249, 203, 53},
                                           {242, 234, 105},
                                           {252, 255, 164}}};

// The two grid points between which a pixel of the enlarged grid lies, and the share of the second.
struct Between {
  int first, second;
  float share;
};

Between between(int at, int from, int to) {
  const double place = std::max(0., (at + 0.5) * from / to - 0.5);
  const int first = std::min(static_cast<int>(place), from - 1);
  return {first, std::min(first + 1, from - 1), static_cast<float>(place - first)};
}

float mix(float a, float b, float share) {
  return a + share * (b - a);
}

uint8_t level(float value) {
  return static_cast<uint8_t>(std::lround(std::clamp(value, 0.f, 255.f)));
}

}  // namespace

ActivationMap activation_map(std::span<const float> features, int height, int width,
                             std::span<const float> weights) {
  const size_t channels = weights.size();
  ActivationMap map{height, width, std::vector<float>(size_t(height) * width)};
  require(features.size() == map.values.size() * channels, Failure::internal,
          "{} features are not {}x{}x{}", features.size(), height, width, channels);
  for (size_t at = 0; at < map.values.size(); ++at) {
    double sum = 0;
    for (size_t k = 0; k < channels; ++k)
      sum += double(weights[k]) * double(features[at * channels + k]);
    map.values[at] = static_cast<float>(sum);
  }
  return map;
}

ActivationMap resize_bilinear(const ActivationMap& map, int height, int width) {
  ActivationMap large{height, width, std::vector<float>(size_t(height) * width)};
  for (int y = 0; y < height; ++y) {
    const Between row = between(y, map.height, height);
    const float* upper = map.values.data() + size_t(row.first) * map.width;
    const float* lower = map.values.data() + size_t(row.second) * map.width;
    for (int x = 0; x < width; ++x) {
      const Between column = between(x, map.width, width);
      large.values[size_t(y) * width + x] =
          mix(mix(upper[column.first], upper[column.second], column.share),
              mix(lower[column.first], lower[column.second], column.share), row.share);
    }
  }
  return large;
}

Rgb map_colour(float value) {
  constexpr int kParts = int(kInferno.size()) - 1;
  const float place = std::clamp(value, 0.f, 1.f) * kParts;
  const int part = std::min(static_cast<int>(place), kParts - 1);
  const Rgb &a = kInferno[size_t(part)], &b = kInferno[size_t(part) + 1];
  const float share = place - static_cast<float>(part);
  return {level(mix(a.r, b.r, share)), level(mix(a.g, b.g, share)), level(mix(a.b, b.b, share))};
}

Image overlay(const Image& picture, const ActivationMap& map) {
  constexpr float kColour = 0.5f;  // of a pixel; the rest is the picture
  const auto [low, high] = std::ranges::minmax(map.values);
  const float scale = high > low ? 1 / (high - low) : 0;
  const ActivationMap large = resize_bilinear(map, picture.height, picture.width);
  Image out = convert_channels(picture, 3);
  for (size_t i = 0; i < large.values.size(); ++i) {
    const Rgb colour = map_colour((large.values[i] - low) * scale);
    uint8_t* pixel = out.pixels.data() + 3 * i;
    const uint8_t parts[] = {colour.r, colour.g, colour.b};
    for (int c = 0; c < 3; ++c) pixel[c] = level(mix(pixel[c], parts[c], kColour));
  }
  return out;
}

}  // namespace engine
