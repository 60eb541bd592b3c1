// The colour edits of augment.h: those of kernels/color.h, pixel by pixel, and those that need
// tables or neighbours.
#include <algorithm>
#include <array>
#include <cstdint>

#include "io/images/augment.h"
#include "kernels/color.h"

namespace engine {
namespace {

// Calls body(pixels of C channels, their number).
template <class Body>
auto visit_pixels(Image& image, const Body& body) {
  const size_t count = image.pixels.size() / size_t(image.channels);
  return image.channels == 1 ? body(reinterpret_cast<Pixel<1>*>(image.pixels.data()), count)
                             : body(reinterpret_cast<Pixel<3>*>(image.pixels.data()), count);
}

template <ColorEdit Edit>
void edit(Image& image, float amount, int mean = 0) {
  visit_pixels(image, [=](auto* pixels, size_t count) {
    for (size_t i = 0; i < count; ++i) pixels[i] = edit_color(Edit, amount, mean, pixels[i]);
  });
}

int mean_gray(Image& image) {
  return visit_pixels(image, [](const auto* pixels, size_t count) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += uint64_t(gray_level(pixels[i]));
    return mean_level(sum, int64_t(count));
  });
}

using LevelTable = std::array<uint8_t, 256>;
using Histogram = std::array<int64_t, 256>;

Histogram histogram(const Image& image, int channel) {
  Histogram counts{};
  for (size_t i = size_t(channel); i < image.pixels.size(); i += size_t(image.channels))
    ++counts[image.pixels[i]];
  return counts;
}

void look_up(Image& image, int channel, const LevelTable& table) {
  for (size_t i = size_t(channel); i < image.pixels.size(); i += size_t(image.channels))
    image.pixels[i] = table[image.pixels[i]];
}

// PIL's SMOOTH filter: 1 1 1, 1 5 1, 1 1 1 over 13, added in its order. The border stays as it is.
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
  edit<ColorEdit::brightness>(image, factor);
}

void adjust_contrast(Image& image, float factor) {
  edit<ColorEdit::contrast>(image, factor, mean_gray(image));
}

void adjust_saturation(Image& image, float factor) {
  edit<ColorEdit::saturation>(image, factor);
}

void adjust_hue(Image& image, float turns) {
  edit<ColorEdit::hue>(image, turns);
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
    LevelTable table;
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
    if (step == 0) continue;  // PIL, too, leaves a small or plain picture as it is
    LevelTable table;
    int64_t sum = step / 2;
    for (size_t i = 0; i < 256; ++i) {
      table[i] = static_cast<uint8_t>(std::min<int64_t>(sum / step, 255));
      sum += counts[i];
    }
    look_up(image, channel, table);
  }
}

}  // namespace engine
