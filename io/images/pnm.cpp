// Portable graymaps and pixmaps: P5 and P6, with 8 or 16 bits and any maximum value.
#include <cctype>
#include <cstdint>

#include "engine/error.h"
#include "io/images/decoders.h"

namespace engine {
namespace {

// Reads the numbers of the header, which white space separates. Comments run from # to the end of
// the line.
class Header {
 public:
  Header(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  int64_t number() {
    while (std::isspace(peek()) || peek() == '#')
      if (take() == '#')
        while (take() != '\n') {
        }
    require(std::isdigit(peek()), Failure::data, "{}: a number is missing in the PNM header",
            name_);
    int64_t value = 0;
    while (std::isdigit(peek()) && value < 1'000'000) value = 10 * value + (take() - '0');
    return value;
  }
  int take() {
    require(at_ < file_.size(), Failure::data, "{}: truncated in the PNM header", name_);
    return std::to_integer<int>(file_[at_++]);
  }
  std::span<const std::byte> rest() const { return file_.subspan(at_); }

 private:
  int peek() const { return at_ < file_.size() ? std::to_integer<int>(file_[at_]) : 0; }

  std::span<const std::byte> file_;
  std::string_view name_;
  size_t at_ = 2;  // after P5 or P6
};

}  // namespace

Image decode_pnm(std::span<const std::byte> file, std::string_view name) {
  Header header(file, name);
  const int64_t width = header.number(), height = header.number(), maximum = header.number();
  header.take();  // the single white space before the pixels
  check_image_size(width, height, name);
  require(maximum >= 1 && maximum <= 65535, Failure::data, "{}: a PNM maximum value of {}", name,
          maximum);

  const bool wide = maximum > 255;  // two bytes a value, high byte first
  const auto bytes = header.rest();
  Image image(int(width), int(height), file[1] == std::byte{'6'} ? 3 : 1);
  const size_t needed = image.pixels.size() * (wide ? 2 : 1);
  require(bytes.size() >= needed, Failure::data, "{}: truncated, {} of {} bytes of pixels", name,
          bytes.size(), needed);
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    const int64_t value =
        wide ? std::to_integer<int>(bytes[2 * i]) << 8 | std::to_integer<int>(bytes[2 * i + 1])
             : std::to_integer<int>(bytes[i]);
    const int64_t capped = value < maximum ? value : maximum;
    image.pixels[i] = static_cast<uint8_t>((capped * 255 + maximum / 2) / maximum);
  }
  return image;
}

ImageInfo inspect_pnm(std::span<const std::byte> file, std::string_view name) {
  Header header(file, name);
  const int64_t width = header.number(), height = header.number(), maximum = header.number();
  return {.format = "pnm",
          .width = static_cast<int>(width),
          .height = static_cast<int>(height),
          .channels = file[1] == std::byte{'6'} ? 3 : 1,
          .bits = maximum > 255 ? 16 : 8};
}

}  // namespace engine
