// TGA: gray, colours and palettes, plain or with run lengths, with rows and columns in either
// order. The format has no magic bytes, so a file is taken for TGA if its header makes sense.
#include <algorithm>
#include <cstdint>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/raw_file.h"

namespace engine {
namespace {

enum Kind { kIndexed = 1, kColor = 2, kGray = 3 };

constexpr size_t kHeader = 18;

struct Tga {
  int kind = 0;
  bool runs = false, top_down = false, right_to_left = false, has_palette = false;
  int width = 0, height = 0, depth = 0;  // bits per pixel
  int first_color = 0, colors = 0, color_depth = 0;
  size_t palette_at = 0;

  int channels() const { return kind == kGray ? 1 : 3; }
  size_t pixels() const { return size_t(width) * size_t(height); }
};

bool makes_sense(const Tga& tga, int type, int has_palette) {
  if (has_palette > 1 || tga.width == 0 || tga.height == 0) return false;
  const bool palette = tga.color_depth == 16 || tga.color_depth == 24 || tga.color_depth == 32;
  if (has_palette == 1 && !palette) return false;
  switch (type) {
    case 1:
    case 9: return has_palette == 1 && tga.depth == 8;
    case 2:
    case 10: return tga.depth == 16 || tga.depth == 24 || tga.depth == 32;
    case 3: return tga.depth == 1 || tga.depth == 8 || tga.depth == 16;
    case 11: return tga.depth == 8 || tga.depth == 16;
    default: return false;
  }
}

Tga read_header(std::span<const std::byte> file, std::string_view name) {
  RawFile in(file, name);
  constexpr const char* kUnknown = "{}: not an image of a known format";
  require(file.size() > kHeader, Failure::data, kUnknown, name);
  Tga tga;
  const int id_bytes = in.u8(), has_palette = in.u8(), type = in.u8();
  tga.kind = type & 7;
  tga.runs = (type & 8) != 0;
  tga.has_palette = has_palette == 1;
  tga.first_color = in.u16();
  tga.colors = in.u16();
  tga.color_depth = in.u8();
  in.take(4);  // the corner on a screen
  tga.width = in.u16();
  tga.height = in.u16();
  tga.depth = in.u8();
  const int descriptor = in.u8();
  tga.right_to_left = (descriptor & 0x10) != 0;
  tga.top_down = (descriptor & 0x20) != 0;
  tga.palette_at = kHeader + size_t(id_bytes);
  require(makes_sense(tga, type, has_palette), Failure::data, kUnknown, name);
  return tga;
}

Color color_at(const uint8_t* from, int depth) {
  if (depth == 16) return color_of_555(uint32_t(from[0] | from[1] << 8));
  return {from[2], from[1], from[0]};
}

Palette read_palette(RawFile& in, const Tga& tga) {
  Palette palette{};
  for (int i = 0; i < tga.colors; ++i) {
    const uint8_t* from = in.take(size_t(tga.color_depth / 8));
    const int index = tga.first_color + i;
    if (index < int(palette.size())) palette[size_t(index)] = color_at(from, tga.color_depth);
  }
  return palette;
}

// Takes pixels in the order of the file, and puts them where they belong.
class Canvas {
 public:
  Canvas(const Tga& tga, const Palette& palette)
      : tga_(tga), palette_(palette), image_(tga.width, tga.height, tga.channels()) {}

  bool full() const { return done_ == tga_.pixels(); }
  void put(const uint8_t* from) {
    if (tga_.kind == kGray)
      put_gray(*from);
    else
      put_color(tga_.kind == kIndexed ? palette_[*from] : color_at(from, tga_.depth));
  }
  void put_gray(uint8_t level) { *next() = level; }
  Image take() { return std::move(image_); }

 private:
  void put_color(const Color& color) { std::ranges::copy(color, next()); }
  uint8_t* next() {
    const int x = int(done_ % size_t(tga_.width)), y = int(done_ / size_t(tga_.width));
    ++done_;
    return image_.row(tga_.top_down ? y : tga_.height - 1 - y) +
           size_t(tga_.right_to_left ? tga_.width - 1 - x : x) * size_t(tga_.channels());
  }

  const Tga& tga_;
  const Palette& palette_;
  Image image_;
  size_t done_ = 0;
};

void check_bytes(size_t have, size_t needed, std::string_view name) {
  require(have >= needed, Failure::data, "{}: truncated, {} bytes of at least {} for the pixels",
          name, have, needed);
}

Image read_bits(RawFile& in, const Tga& tga, std::string_view name) {
  const size_t row_bytes = (size_t(tga.width) + 7) / 8;
  check_bytes(in.left(), row_bytes * size_t(tga.height), name);
  const Palette none{};
  Canvas canvas(tga, none);
  for (int y = 0; y < tga.height; ++y) {
    const uint8_t* row = in.take(row_bytes);
    for (int x = 0; x < tga.width; ++x)
      canvas.put_gray((row[x / 8] >> (7 - x % 8) & 1) != 0 ? 255 : 0);
  }
  return canvas.take();
}

Image read_runs(RawFile& in, const Tga& tga, const Palette& palette, std::string_view name) {
  const size_t size = size_t(tga.depth / 8);
  constexpr size_t kLongest = 128;  // pixels of a run
  check_bytes(in.left(), (tga.pixels() + kLongest - 1) / kLongest * (1 + size), name);
  Canvas canvas(tga, palette);
  while (!canvas.full()) {
    const int head = in.u8();
    const bool repeated = (head & 0x80) != 0;
    const uint8_t* pixel = repeated ? in.take(size) : nullptr;
    for (int left = (head & 0x7F) + 1; left > 0 && !canvas.full(); --left)
      canvas.put(repeated ? pixel : in.take(size));
  }
  return canvas.take();
}

}  // namespace

Image decode_tga(std::span<const std::byte> file, std::string_view name) {
  const Tga tga = read_header(file, name);
  check_image_size(tga.width, tga.height, name);
  RawFile in(file, name);
  in.seek(tga.palette_at);
  const Palette palette = tga.has_palette ? read_palette(in, tga) : Palette{};
  if (tga.depth == 1) return read_bits(in, tga, name);
  if (tga.runs) return read_runs(in, tga, palette, name);
  const size_t size = size_t(tga.depth / 8);
  check_bytes(in.left(), tga.pixels() * size, name);
  Canvas canvas(tga, palette);
  while (!canvas.full()) canvas.put(in.take(size));
  return canvas.take();
}

ImageInfo inspect_tga(std::span<const std::byte> file, std::string_view name) {
  const Tga tga = read_header(file, name);
  check_image_size(tga.width, tga.height, name);
  return {.format = "tga",
          .width = tga.width,
          .height = tga.height,
          .channels = tga.channels(),
          .alpha = tga.depth == 32 || (tga.kind == kGray && tga.depth == 16)};
}

}  // namespace engine
