#include "io/images/decode.h"

#include <algorithm>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/images/decoders.h"
#include "io/images/formats.h"

namespace engine {
namespace {

DecodedPart decode_any(std::span<const std::byte> file, std::string_view name,
                       DecodeOptions options, const ChoosePart& choose, Image recycled) {
  const Format& format = format_of(file, name);
  if (format.name == "jpeg") return decode_jpeg(file, name, options, choose, std::move(recycled));
  Image image = format.decode(file, name);
  const int width = image.width, height = image.height;
  return {.image = std::move(image), .width = width, .height = height};
}

}  // namespace

void check_image_size(int64_t width, int64_t height, std::string_view name) {
  require(width > 0 && height > 0, Failure::data, "{}: {}x{} pixels", name, width, height);
  require(width <= kMaxImageSide && height <= kMaxImageSide && width * height <= kMaxImagePixels,
          Failure::data, "{}: {}x{} pixels; the limits are {} a side and {} pixels", name, width,
          height, kMaxImageSide, kMaxImagePixels);
}

// Gray is made in the memory of the colours.
Image convert_channels(Image image, int channels) {
  if (image.channels == channels) return image;
  const size_t count = size_t(image.width) * size_t(image.height);
  if (channels == 3) {
    Image out(image.width, image.height, 3);
    const uint8_t* from = image.pixels.data();
    for (size_t i = 0; i < count; ++i) std::fill_n(&out.pixels[3 * i], 3, from[i]);
    return out;
  }
  const uint8_t* from = image.pixels.data();
  for (size_t i = 0; i < count; ++i, from += 3)
    image.pixels[i] =
        static_cast<uint8_t>((from[0] * 19595 + from[1] * 38470 + from[2] * 7471 + 0x8000) >> 16);
  image.channels = 1;
  image.pixels.resize(count);
  return image;
}

Image ink_to_rgb(Image cmyk, Ink stored) {
  const int flip = stored == Ink::inverted ? 255 : 0;
  uint8_t* to = cmyk.pixels.data();
  for (const uint8_t *from = to, *end = to + cmyk.pixels.size(); from != end; from += 4) {
    const int light = 255 - (from[3] ^ flip);
    for (int c = 0; c < 3; ++c) {
      const int product = (from[c] ^ flip) * light + 128;  // over 255, rounded
      *to++ = static_cast<uint8_t>(light - ((product + (product >> 8)) >> 8));
    }
  }
  cmyk.channels = 3;
  cmyk.pixels.resize(cmyk.pixels.size() / 4 * 3);
  return cmyk;
}

Image decode(std::span<const std::byte> file, std::string_view name, int channels,
             DecodeOptions options) {
  return convert_channels(decode_any(file, name, options, {}, {}).image, channels);
}

DecodedPart decode_part(std::span<const std::byte> file, std::string_view name, int channels,
                        DecodeOptions options, const ChoosePart& choose, Image recycled) {
  DecodedPart part = decode_any(file, name, options, choose, std::move(recycled));
  part.image = convert_channels(std::move(part.image), channels);
  return part;
}

std::vector<std::byte> read_image_bytes(const std::filesystem::path& path) {
  return read_file(path, Failure::data, kMaxImageBytes);
}

DecodedPart read_part(const std::filesystem::path& path, int channels, DecodeOptions options,
                      const ChoosePart& choose, Image recycled) {
  return decode_part(read_image_bytes(path), path.string(), channels, options, choose,
                     std::move(recycled));
}

Image read_image(const std::filesystem::path& path, int channels, DecodeOptions options) {
  return decode(read_image_bytes(path), path.string(), channels, options);
}

}  // namespace engine
