// The colour edits of augment.h, with PIL's 8-bit arithmetic: ImageEnhance blends and the HSV mode.
#include <algorithm>
#include <array>
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

using Table = std::array<uint8_t, 256>;
using Histogram = std::array<int64_t, 256>;

Histogram histogram(const Image& image, int channel) {
  Histogram counts{};
  for (size_t i = size_t(channel); i < image.pixels.size(); i += size_t(image.channels))
    ++counts[image.pixels[i]];
  return counts;
}

void look_up(Image& image, int channel, const Table& table) {
  for (size_t i = size_t(channel); i < image.pixels.size(); i += size_t(image.channels))
    image.pixels[i] = table[image.pixels[i]];
}

// PIL's SMOOTH: 1 1 1, 1 5 1, 1 1 1 over 13, in its order of additions; the border stays.
Image smooth(const Image& image) {
  Image out = image;
  constexpr float kSide = static_cast<float>(1.0 / 13), kCenter = static_cast<float>(5.0 / 13);
  const size_t step = size_t(image.channels);
  const size_t last = size_t(image.width - 1) * step;
  for (int y = 1; y + 1 < image.height; ++y) {
    const uint8_t *above = image.row(y - 1), *here = image.row(y), *below = image.row(y + 1);
    uint8_t* to = out.row(y);
    const auto sum = [step](const uint8_t* row, size_t x, float side, float center) {
      return static_cast<float>(row[x - step]) * side + static_cast<float>(row[x]) * center +
             static_cast<float>(row[x + step]) * side;
    };
    for (size_t x = step; x < last; ++x) {
      float total = 0.5f + sum(below, x, kSide, kSide);
      total += sum(here, x, kSide, kCenter);
      total += sum(above, x, kSide, kSide);
      to[x] = static_cast<uint8_t>(std::clamp(total, 0.f, 255.f));
    }
  }
  return out;
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

void adjust_sharpness(Image& image, float factor) {
  const Image smoothed = smooth(image);
  for (size_t i = 0; i < image.pixels.size(); ++i)
    image.pixels[i] = blend(smoothed.pixels[i], image.pixels[i], factor);
}

void posterize(Image& image, int bits) {
  const auto mask = static_cast<uint8_t>(~((1 << (8 - bits)) - 1));
  for (uint8_t& value : image.pixels) value &= mask;
}

void solarize(Image& image, float threshold) {
  for (uint8_t& value : image.pixels)
    if (static_cast<float>(value) >= threshold) value = static_cast<uint8_t>(255 - value);
}

void autocontrast(Image& image) {
  for (int channel = 0; channel < image.channels; ++channel) {
    const Histogram counts = histogram(image, channel);
    int low = 0, high = 255;
    while (low < 255 && counts[size_t(low)] == 0) ++low;
    while (high > 0 && counts[size_t(high)] == 0) --high;
    if (high <= low) continue;
    const double scale = 255.0 / (high - low), offset = -low * scale;
    Table table;
    for (int i = 0; i < 256; ++i) table[size_t(i)] = to_byte(i * scale + offset);
    look_up(image, channel, table);
  }
}

void equalize(Image& image) {
  for (int channel = 0; channel < image.channels; ++channel) {
    const Histogram counts = histogram(image, channel);
    int64_t total = 0, brightest = 0;
    for (const int64_t count : counts) {
      total += count;
      if (count > 0) brightest = count;
    }
    const int64_t step = (total - brightest) / 255;
    if (step == 0) continue;  // PIL, too, leaves a small or plain picture
    Table table;
    int64_t sum = step / 2;
    for (size_t i = 0; i < 256; ++i) {
      table[i] = static_cast<uint8_t>(std::min<int64_t>(sum / step, 255));
      sum += counts[i];
    }
    look_up(image, channel, table);
  }
}

}  // namespace engine
