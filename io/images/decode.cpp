#include "io/images/decode.h"

#include <cstring>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/images/decoders.h"

namespace engine {
namespace {

DecodedPart decode_any(std::span<const std::byte> file, std::string_view name,
                       DecodeOptions options, const ChoosePart& choose, Image recycled) {
  require(!file.empty(), Failure::data, "{}: the file is empty", name);
  if (starts_with(file, kJpegMagic))
    return decode_jpeg(file, name, options, choose, std::move(recycled));
  const bool is_pnm = starts_with(file, "P5") || starts_with(file, "P6");
  Image image = is_pnm                         ? decode_pnm(file, name)
                : starts_with(file, kPngMagic) ? decode_png(file, name)
                                               : decode_stb(file, name);
  const int width = image.width, height = image.height;
  return {.image = std::move(image), .width = width, .height = height};
}

}  // namespace

bool starts_with(std::span<const std::byte> file, std::string_view magic) {
  return file.size() >= magic.size() && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
}

void check_image_size(int64_t width, int64_t height, std::string_view name) {
  require(width > 0 && height > 0, Failure::data, "{}: {}x{} pixels", name, width, height);
  require(width <= kMaxImageSide && height <= kMaxImageSide && width * height <= kMaxImagePixels,
          Failure::data, "{}: {}x{} pixels; the limits are {} a side and {} pixels", name, width,
          height, kMaxImageSide, kMaxImagePixels);
}

Image convert_channels(Image image, int channels) {
  if (image.channels == channels) return image;
  Image out(image.width, image.height, channels);
  const size_t count = size_t(image.width) * size_t(image.height);
  const uint8_t* from = image.pixels.data();
  uint8_t* to = out.pixels.data();
  if (channels == 3) {
    for (size_t i = 0; i < count; ++i) to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = from[i];
  } else {
    for (size_t i = 0; i < count; ++i, from += 3)
      to[i] =
          static_cast<uint8_t>((from[0] * 19595 + from[1] * 38470 + from[2] * 7471 + 0x8000) >> 16);
  }
  return out;
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

DecodedPart read_part(const std::filesystem::path& path, int channels, DecodeOptions options,
                      const ChoosePart& choose, Image recycled) {
  return decode_part(read_file(path), path.string(), channels, options, choose,
                     std::move(recycled));
}

Image read_image(const std::filesystem::path& path, int channels, DecodeOptions options) {
  return decode(read_file(path), path.string(), channels, options);
}

}  // namespace engine
