// A decoded picture: what decoders write, what resizing and augmentation edit, and what batches are
// filled from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

// 8 bits per channel, rows from top to bottom, channels interleaved (H, W, C), no padding between
// rows.
struct Image {
  int width = 0, height = 0, channels = 0;  // 3 channels are RGB, 1 is gray
  std::vector<uint8_t> pixels;              // (height, width, channels)

  Image() = default;
  Image(int w, int h, int c) : width(w), height(h), channels(c), pixels(size_t(w) * h * c) {}
  uint8_t* row(int y) { return pixels.data() + size_t(y) * width * channels; }
  const uint8_t* row(int y) const { return pixels.data() + size_t(y) * width * channels; }
};

// Pixels of the same layout that belong to someone else.
struct ImageView {
  const uint8_t* pixels = nullptr;  // (height, width, channels)
  int width = 0, height = 0, channels = 0;

  size_t bytes() const { return size_t(width) * height * channels; }
};

inline ImageView view_of(const Image& image) {
  return {image.pixels.data(), image.width, image.height, image.channels};
}

// A rectangle in pixels. It may reach beyond the image, where the pixels are zero.
struct CropWindow {
  int left, top, width, height;
  bool operator==(const CropWindow&) const = default;
};

}  // namespace engine
