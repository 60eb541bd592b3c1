// The colour edits of augment.h, with PIL's 8-bit arithmetic: ImageEnhance blends and the HSV mode.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "io/augment.h"
#include "io/decode.h"

namespace engine {
namespace {

// from + factor · (value − from), cut to an integer in 0 … 255.
uint8_t blend(int from, int value, float factor) {
  const float mixed = static_cast<float>(from) + factor * static_cast<float>(value - from);
  return static_cast<uint8_t>(std::clamp(mixed, 0.f, 255.f));
}

struct Color {
  uint8_t a, b, c;  // red, green, blue or hue, saturation, value
};

uint8_t to_byte(double value) {
  return static_cast<uint8_t>(std::clamp(static_cast<int>(value), 0, 255));
}

// The float and double steps are PIL's.
Color rgb_to_hsv(Color rgb) {
  const uint8_t r = rgb.a, g = rgb.b, b = rgb.c;
  const uint8_t high = std::max({r, g, b}), low = std::min({r, g, b});
  if (high == low) return {0, 0, high};
  const float range = static_cast<float>(high - low);
  const float from_r = static_cast<float>(high - r) / range;
  const float from_g = static_cast<float>(high - g) / range;
  const float from_b = static_cast<float>(high - b) / range;
  float hue;  // in sixths of a turn
  if (r == high) {
    hue = from_b - from_g;
  } else if (g == high) {
    hue = static_cast<float>(2.0 + from_r - from_b);
  } else {
    hue = static_cast<float>(4.0 + from_g - from_r);
  }
  const float turn = static_cast<float>(std::fmod(hue / 6.0 + 1.0, 1.0));
  return {to_byte(turn * 255.0), to_byte(range / static_cast<float>(high) * 255.0), high};
}

Color hsv_to_rgb(Color hsv) {
  const uint8_t value = hsv.c;
  if (hsv.b == 0) return {value, value, value};
  const float sixths = hsv.a * 6.0f / 255.0f;
  const int sector = static_cast<int>(std::floor(sixths));
  const float within = sixths - static_cast<float>(sector);
  const float saturation = hsv.b / 255.0f;
  const auto shade = [value](float part) { return to_byte(std::round(value * (1.0 - part))); };
  const uint8_t p = shade(saturation), q = shade(saturation * within);
  const uint8_t t = to_byte(std::round(value * (1.0 - saturation * (1.0 - within))));
  switch (sector % 6) {
    case 0: return {value, t, p};
    case 1: return {q, value, p};
    case 2: return {p, value, t};
    case 3: return {p, q, value};
    case 4: return {t, p, value};
    default: return {value, p, q};
  }
}

}  // namespace

void adjust_brightness(Image& image, float factor) {
  for (uint8_t& value : image.pixels) value = blend(0, value, factor);
}

void adjust_contrast(Image& image, float factor) {
  const Image gray = convert_channels(image, 1);
  int64_t sum = 0;
  for (const uint8_t value : gray.pixels) sum += value;
  const int mean = static_cast<int>(static_cast<double>(sum) / gray.pixels.size() + 0.5);
  for (uint8_t& value : image.pixels) value = blend(mean, value, factor);
}

void adjust_saturation(Image& image, float factor) {
  if (image.channels == 1) return;
  const Image gray = convert_channels(image, 1);
  for (size_t i = 0; i < image.pixels.size(); ++i)
    image.pixels[i] = blend(gray.pixels[i / 3], image.pixels[i], factor);
}

void adjust_hue(Image& image, float turns) {
  if (image.channels == 1) return;
  const int shift = static_cast<int>(turns * 255.0);
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    uint8_t* pixel = &image.pixels[i];
    Color hsv = rgb_to_hsv({pixel[0], pixel[1], pixel[2]});
    hsv.a = static_cast<uint8_t>(hsv.a + shift);  // wraps around
    const Color rgb = hsv_to_rgb(hsv);
    pixel[0] = rgb.a, pixel[1] = rgb.b, pixel[2] = rgb.c;
  }
}

}  // namespace engine
