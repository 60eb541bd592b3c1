// Colour edits of one pixel with PIL's 8-bit arithmetic, the same bits on host and device:
// ImageEnhance's blends and the HSV mode. io/images/color.cpp applies them to whole images.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/random.h"

namespace engine {

// C: 3 (RGB) or 1 (gray).
template <int C>
struct Pixel {
  uint8_t value[C];
};

enum class ColorEdit : uint8_t { none, brightness, contrast, saturation, hue };

// A product that is rounded before anything is added to it, as on a host without fused operations.
ENGINE_HOST_DEVICE float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
ENGINE_HOST_DEVICE double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// from + factor · (value − from), cut to an integer in 0 … 255.
ENGINE_HOST_DEVICE uint8_t blend(int from, int value, float factor) {
  const float mixed = static_cast<float>(from) + product(factor, static_cast<float>(value - from));
  return static_cast<uint8_t>(mixed < 0 ? 0.f : mixed > 255 ? 255.f : mixed);
}

// PIL's L = 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point.
ENGINE_HOST_DEVICE int gray_level(const Pixel<3>& p) {
  return (p.value[0] * 19595 + p.value[1] * 38470 + p.value[2] * 7471 + 0x8000) >> 16;
}
ENGINE_HOST_DEVICE int gray_level(const Pixel<1>& p) {
  return p.value[0];
}
// What contrast blends with: the rounded mean of an image's gray levels.
ENGINE_HOST_DEVICE int mean_level(uint64_t sum, int64_t pixels) {
  return static_cast<int>(static_cast<double>(sum) / static_cast<double>(pixels) + 0.5);
}

ENGINE_HOST_DEVICE uint8_t to_byte(double value) {
  const int whole = static_cast<int>(value);
  return static_cast<uint8_t>(whole < 0 ? 0 : whole > 255 ? 255 : whole);
}

// (red, green, blue) ↔ (hue, saturation, value); the float and double steps are PIL's.
ENGINE_HOST_DEVICE Pixel<3> rgb_to_hsv(const Pixel<3>& rgb) {
  const uint8_t r = rgb.value[0], g = rgb.value[1], b = rgb.value[2];
  const uint8_t high = r > g ? (r > b ? r : b) : (g > b ? g : b);
  const uint8_t low = r < g ? (r < b ? r : b) : (g < b ? g : b);
  if (high == low) return {{0, 0, high}};
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
  const float turn = static_cast<float>(fmod(hue / 6.0 + 1.0, 1.0));
  return {{to_byte(product(double{turn}, 255.0)),
           to_byte(product(double{range / static_cast<float>(high)}, 255.0)), high}};
}

ENGINE_HOST_DEVICE uint8_t shade(uint8_t value, double part) {
  return to_byte(round(product(double(value), 1.0 - part)));
}

ENGINE_HOST_DEVICE Pixel<3> hsv_to_rgb(const Pixel<3>& hsv) {
  const uint8_t value = hsv.value[2];
  if (hsv.value[1] == 0) return {{value, value, value}};
  const float sixths = product(float(hsv.value[0]), 6.0f) / 255.0f;
  const int sector = static_cast<int>(sixths);
  const float within = sixths - static_cast<float>(sector);
  const float saturation = float(hsv.value[1]) / 255.0f;
  const uint8_t p = shade(value, double{saturation});
  const uint8_t q = shade(value, double{product(saturation, within)});
  const uint8_t t = shade(value, product(double{saturation}, 1.0 - double{within}));
  switch (sector % 6) {
    case 0: return {{value, t, p}};
    case 1: return {{q, value, p}};
    case 2: return {{p, value, t}};
    case 3: return {{p, q, value}};
    case 4: return {{t, p, value}};
    default: return {{value, p, q}};
  }
}

// A factor of 1 changes nothing; the amount of a hue is in turns, −0.5 … 0.5. `mean` is the
// mean_level() of the image as it is before the contrast. Gray has neither saturation nor hue.
template <int C>
ENGINE_HOST_DEVICE Pixel<C> edit_color(ColorEdit edit, float amount, int mean, Pixel<C> p) {
  if constexpr (C == 3) {
    if (edit == ColorEdit::hue) {
      Pixel<3> hsv = rgb_to_hsv(p);  // the hue wraps around
      hsv.value[0] = static_cast<uint8_t>(hsv.value[0] + static_cast<int>(amount * 255.0));
      return hsv_to_rgb(hsv);
    }
  } else {
    if (edit == ColorEdit::saturation || edit == ColorEdit::hue) return p;
  }
  if (edit == ColorEdit::none) return p;
  const int from = edit == ColorEdit::brightness ? 0
                   : edit == ColorEdit::contrast ? mean
                                                 : gray_level(p);
  for (int c = 0; c < C; ++c) p.value[c] = blend(from, p.value[c], amount);
  return p;
}

}  // namespace engine
