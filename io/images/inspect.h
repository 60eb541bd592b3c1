// What an image file says of itself: its header, read by the same decoders that read its pixels.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace engine {

struct ImageInfo {
  std::string_view format;    // "jpeg", "png", "bmp", … of formats.cpp
  int width = 0, height = 0;  // as stored, before the picture is turned upright
  int channels = 0;           // of colour, without alpha: 1, 3, or 4 (CMYK)
  int bits = 8;               // per channel
  bool alpha = false;         // an alpha channel, or transparent colours in a palette
  int orientation = 1;        // EXIF's, 1 to 8, if it stands before the pixels
  bool ended = true;          // false: a JPEG file without end marker
};

// Throws an Error(data), which begins with `name`, if there is no header to read.
ImageInfo inspect_image(std::span<const std::byte> file, std::string_view name);

}  // namespace engine
