// Portable bitmaps, graymaps and pixmaps: P1 to P6, with 8 or 16 bits and any maximum value.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/error.h"
#include "io/images/decoders.h"

namespace engine {
namespace {

bool is_space(int c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// Reads the numbers of the file, which white space separates. Comments run from # to the end of the
// line.
class Text {
 public:
  Text(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  // The next number, and the one white space after it.
  int64_t number() {
    int c = first_of_token();
    int64_t value = 0;
    for (int digits = 0; c != kEnd && !is_space(c); ++digits) {
      require(c >= '0' && c <= '9' && digits < 10, Failure::data,
              "{}: a number is missing in the PNM file at byte {}", name_, at_ - 1);
      value = 10 * value + (c - '0');
      c = next();
    }
    return value;
  }
  // The next 0 or 1, which need no white space between them.
  bool bit() {
    const int c = first_of_token();
    require(c == '0' || c == '1', Failure::data, "{}: a PBM file with a byte {} among its bits",
            name_, c);
    return c == '1';
  }
  std::span<const std::byte> rest() const { return file_.subspan(at_); }

 private:
  static constexpr int kEnd = -1;

  int take() { return at_ < file_.size() ? std::to_integer<int>(file_[at_++]) : kEnd; }
  // The next byte that is in no comment.
  int next() {
    int c = take();
    while (c == '#') {
      while (c != '\n' && c != '\r' && c != kEnd) c = take();
      c = take();
    }
    return c;
  }
  int first_of_token() {
    int c = next();
    while (is_space(c)) c = next();
    require(c != kEnd, Failure::data, "{}: truncated PNM file", name_);
    return c;
  }

  std::span<const std::byte> file_;
  std::string_view name_;
  size_t at_ = 2;  // after P1 to P6
};

struct Header {
  int kind = 0;  // the digit after P
  int64_t width = 0, height = 0, maximum = 1;

  bool plain() const { return kind <= 3; }  // numbers as text
  bool bits() const { return kind == 1 || kind == 4; }
  bool wide() const { return maximum > 255; }  // two bytes a value, high byte first
  int channels() const { return kind == 3 || kind == 6 ? 3 : 1; }

  // The fewest bytes that hold the pixels.
  size_t bytes() const {
    if (kind == 4) return size_t((width + 7) / 8 * height);
    const auto values = size_t(width * height * channels());
    if (plain()) return bits() ? values : 2 * values - 1;  // digits, with a space between them
    return values * (wide() ? 2 : 1);
  }
};

Header read_header(Text& text, std::span<const std::byte> file, std::string_view name) {
  Header header;
  header.kind = std::to_integer<int>(file[1]) - '0';
  header.width = text.number();
  header.height = text.number();
  check_image_size(header.width, header.height, name);
  if (!header.bits()) header.maximum = text.number();
  require(header.maximum >= 1 && header.maximum <= 65535, Failure::data,
          "{}: a PNM maximum value of {}", name, header.maximum);
  return header;
}

// A half is rounded to the even neighbour, as PIL does.
uint8_t level(int64_t value, int64_t maximum) {
  if (maximum == 255) return static_cast<uint8_t>(value);
  return static_cast<uint8_t>(std::nearbyint(double(value) / double(maximum) * 255));
}

void read_plain(Image& image, Text& text, const Header& header, std::string_view name) {
  for (uint8_t& pixel : image.pixels) {
    if (header.bits()) {
      pixel = text.bit() ? 0 : 255;
      continue;
    }
    const int64_t value = text.number();
    require(value <= header.maximum, Failure::data, "{}: a value of {}, the maximum is {}", name,
            value, header.maximum);
    pixel = level(value, header.maximum);
  }
}

void read_bits(Image& image, std::span<const std::byte> bytes) {
  const size_t row_bytes = (size_t(image.width) + 7) / 8;
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      const auto eight = bytes[size_t(y) * row_bytes + size_t(x) / 8];
      image.row(y)[x] = (std::to_integer<int>(eight) >> (7 - x % 8) & 1) != 0 ? 0 : 255;
    }
}

void read_values(Image& image, std::span<const std::byte> bytes, const Header& header) {
  const auto byte = [&](size_t i) { return std::to_integer<int64_t>(bytes[i]); };
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    const int64_t value = header.wide() ? byte(2 * i) << 8 | byte(2 * i + 1) : byte(i);
    image.pixels[i] = level(std::min(value, header.maximum), header.maximum);
  }
}

}  // namespace

bool is_pnm(std::span<const std::byte> file) {
  if (file.size() < 3 || file[0] != std::byte{'P'}) return false;
  const int kind = std::to_integer<int>(file[1]), after = std::to_integer<int>(file[2]);
  return kind >= '1' && kind <= '6' && (is_space(after) || after == '#');
}

Image decode_pnm(std::span<const std::byte> file, std::string_view name) {
  Text text(file, name);
  const Header header = read_header(text, file, name);
  const auto bytes = text.rest();
  require(bytes.size() >= header.bytes(), Failure::data, "{}: truncated, {} of {} bytes of pixels",
          name, bytes.size(), header.bytes());
  Image image(int(header.width), int(header.height), header.channels());
  if (header.plain())
    read_plain(image, text, header, name);
  else if (header.bits())
    read_bits(image, bytes);
  else
    read_values(image, bytes, header);
  return image;
}

ImageInfo inspect_pnm(std::span<const std::byte> file, std::string_view name) {
  Text text(file, name);
  const Header header = read_header(text, file, name);
  return {.format = "pnm",
          .width = static_cast<int>(header.width),
          .height = static_cast<int>(header.height),
          .channels = header.channels(),
          .bits = header.wide() ? 16 : 8};
}

}  // namespace engine
