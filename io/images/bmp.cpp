// BMP: headers of OS/2 and of Windows from version 2 to 5, 1 to 32 bits per pixel, bit masks, run
// lengths. Where the format leaves something open this does as PIL does.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/raw_file.h"

namespace engine {
namespace {

enum Compression : uint32_t { kPlain = 0, kRuns8 = 1, kRuns4 = 2, kMasks = 3 };

constexpr size_t kFileHeader = 14;  // "BM", size, reserved, offset of the pixels
constexpr uint32_t kCoreHeader = 12;

struct Masks {
  uint32_t red = 0, green = 0, blue = 0;
};

struct Bmp {
  int64_t width = 0, height = 0;
  bool top_down = false;
  int bits = 0;  // per pixel
  uint32_t compression = kPlain, colors = 0;
  size_t offset = 0;  // of the pixels
  bool alpha = false;
  Masks masks{};
  Palette palette{};

  size_t row_bytes() const { return (size_t(width) * size_t(bits) + 7) / 8; }
  size_t stride() const { return (size_t(width) * size_t(bits) + 31) / 32 * 4; }
  int row(int64_t index) const { return int(top_down ? index : height - 1 - index); }
};

// The header from its width on, in its long form.
void read_info_header(RawFile& in, Bmp& bmp, uint32_t header_size, std::string_view name) {
  bmp.width = static_cast<int32_t>(in.u32());
  bmp.height = static_cast<int32_t>(in.u32());
  bmp.top_down = bmp.height < 0;
  if (bmp.top_down) bmp.height = -bmp.height;
  in.u16();  // planes
  bmp.bits = in.u16();
  bmp.compression = in.u32();
  in.take(12);  // bytes of pixels, pixels per metre
  bmp.colors = in.u32();
  in.u32();  // important colours
  if (bmp.compression == kMasks) bmp.masks = {in.u32(), in.u32(), in.u32()};
  constexpr uint32_t kWithAlphaMask = 56;
  if (bmp.compression == kMasks && header_size >= kWithAlphaMask) bmp.alpha = in.u32() != 0;
  require(bmp.compression <= kMasks, Failure::data, "{}: a BMP file with compression {}", name,
          bmp.compression);
}

void check_depth(const Bmp& bmp, std::string_view name) {
  const bool known = bmp.bits == 1 || bmp.bits == 4 || bmp.bits == 8 || bmp.bits == 16 ||
                     bmp.bits == 24 || bmp.bits == 32;
  const bool fits = bmp.compression == kPlain || (bmp.compression == kRuns8 && bmp.bits == 8) ||
                    (bmp.compression == kRuns4 && bmp.bits == 4) ||
                    (bmp.compression == kMasks && bmp.bits >= 16);
  require(known && fits, Failure::data, "{}: a BMP file of {} bits per pixel with compression {}",
          name, bmp.bits, bmp.compression);
}

void read_palette(RawFile& in, Bmp& bmp, size_t entry) {
  const size_t count = std::min<size_t>({bmp.colors, bmp.palette.size(), in.left() / entry});
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* blue = in.take(entry);
    bmp.palette[i] = {blue[2], blue[1], blue[0]};
  }
}

Bmp read_bmp_header(std::span<const std::byte> file, std::string_view name) {
  RawFile in(file, name);
  in.take(10);
  Bmp bmp;
  bmp.offset = in.u32();
  const uint32_t size = in.u32();
  constexpr uint32_t kSizes[] = {kCoreHeader, 40, 52, 56, 64, 108, 124};
  require(std::ranges::find(kSizes, size) != std::end(kSizes), Failure::data,
          "{}: a BMP header of {} bytes", name, size);
  if (size == kCoreHeader) {
    bmp.width = in.u16();
    bmp.height = in.u16();
    in.u16();  // planes
    bmp.bits = in.u16();
  } else {
    read_info_header(in, bmp, size, name);
  }
  check_depth(bmp, name);
  in.seek(std::max(in.position(), kFileHeader + size));
  const size_t after_header = in.position();
  if (bmp.bits <= 8) {
    if (bmp.colors == 0) bmp.colors = 1u << bmp.bits;
    const size_t entry = size == kCoreHeader ? 3 : 4;
    read_palette(in, bmp, entry);
    // Some writers forget the palette when they say where the pixels begin.
    const bool forgotten = bmp.offset == 0 || bmp.offset == after_header;
    if (forgotten) bmp.offset = after_header + entry * bmp.colors;
  }
  if (bmp.offset == 0) bmp.offset = after_header;
  return bmp;
}

// The bits of a mask as 8; fewer are stretched, of more the highest remain.
uint8_t masked(uint32_t pixel, uint32_t mask) {
  if (mask == 0) return 0;
  const int low = std::countr_zero(mask), width = std::bit_width(mask >> low);
  const uint32_t value = (pixel & mask) >> low;
  return width > 8 ? static_cast<uint8_t>(value >> (width - 8)) : stretch(value, width);
}

Masks masks_of(const Bmp& bmp) {
  const bool given = bmp.compression == kMasks && (bmp.masks.red | bmp.masks.green) != 0;
  if (given) return bmp.masks;
  return bmp.bits == 16 ? Masks{31 << 10, 31 << 5, 31} : Masks{0xFF0000, 0xFF00, 0xFF};
}

void convert_row(uint8_t* to, const uint8_t* from, const Bmp& bmp, const Masks& masks) {
  const int bytes = bmp.bits / 8;
  for (int64_t x = 0; x < bmp.width; ++x, to += 3) {
    if (bmp.bits <= 8) {
      const int64_t bit = x * bmp.bits;
      const int index = from[bit / 8] >> (8 - bmp.bits - bit % 8) & ((1 << bmp.bits) - 1);
      std::ranges::copy(bmp.palette[size_t(index)], to);
      continue;
    }
    uint32_t pixel = 0;
    std::memcpy(&pixel, from + x * bytes, size_t(bytes));
    to[0] = masked(pixel, masks.red);
    to[1] = masked(pixel, masks.green);
    to[2] = masked(pixel, masks.blue);
  }
}

Image read_rows(std::span<const std::byte> file, const Bmp& bmp, std::string_view name) {
  RawFile in(file, name);
  in.seek(bmp.offset);
  const size_t needed = bmp.stride() * size_t(bmp.height - 1) + bmp.row_bytes();
  require(in.left() >= needed, Failure::data, "{}: truncated, {} of {} bytes of pixels", name,
          in.left(), needed);
  const uint8_t* rows = in.take(needed);
  const Masks masks = masks_of(bmp);
  Image image(int(bmp.width), int(bmp.height), 3);
  for (int64_t y = 0; y < bmp.height; ++y)
    convert_row(image.row(bmp.row(y)), rows + size_t(y) * bmp.stride(), bmp, masks);
  return image;
}

// Paints one run after the other, in the order of the file. What a run skips has colour 0.
class Runs {
 public:
  Runs(std::span<const std::byte> file, const Bmp& bmp, std::string_view name)
      : bmp_(bmp), in_(file, name), image_(int(bmp.width), int(bmp.height), 3) {
    in_.seek(bmp.offset);
    for (size_t i = 0; i < image_.pixels.size(); ++i) image_.pixels[i] = bmp.palette[0][i % 3];
  }

  Image paint(std::string_view name) {
    const int64_t all = bmp_.width * bmp_.height;
    bool more = true;
    while (more && done_ < all) {
      const int count = in_.u8(), value = in_.u8();
      if (count > 0)
        repeat(count, value);
      else
        more = escape(value);
    }
    require(done_ >= all, Failure::data, "{}: the run lengths end after {} of {} pixels", name,
            done_, all);
    return std::move(image_);
  }

 private:
  // Two indices of four bits alternate. What goes beyond the end of a row is cut off.
  void repeat(int count, int value) {
    const int64_t fitting = std::clamp<int64_t>(bmp_.width - column_, 0, count);
    for (int64_t i = 0; i < fitting; ++i) put(index_in(value, int(i)));
    column_ += fitting;
  }

  // False at the end of the picture.
  bool escape(int code) {
    if (code == 0) {
      done_ = (done_ + bmp_.width - 1) / bmp_.width * bmp_.width;
      column_ = 0;
    } else if (code == 1) {
      return false;
    } else if (code == 2) {
      const int right = in_.u8(), rows = in_.u8();
      done_ += right + rows * bmp_.width;
      column_ = done_ % bmp_.width;
    } else {
      const int per_byte = bmp_.compression == kRuns4 ? 2 : 1;
      const uint8_t* bytes = in_.take(size_t((code + per_byte - 1) / per_byte));
      for (int i = 0; i < code; ++i) put(index_in(bytes[i / per_byte], i));
      column_ += code;
      if (in_.position() % 2 != 0 && in_.left() > 0) in_.take(1);
    }
    return true;
  }

  int index_in(int byte, int i) const {
    if (bmp_.compression == kRuns8) return byte;
    return i % 2 == 0 ? byte >> 4 : byte & 15;
  }

  void put(int index) {
    if (done_ >= bmp_.width * bmp_.height) return;
    uint8_t* to = image_.row(bmp_.row(done_ / bmp_.width)) + done_ % bmp_.width * 3;
    std::ranges::copy(bmp_.palette[size_t(index)], to);
    ++done_;
  }

  const Bmp& bmp_;
  RawFile in_;
  Image image_;
  int64_t done_ = 0;    // pixels painted or skipped
  int64_t column_ = 0;  // where the runs of this row are, which may be beyond its end
};

}  // namespace

Image decode_bmp(std::span<const std::byte> file, std::string_view name) {
  const Bmp bmp = read_bmp_header(file, name);
  check_image_size(bmp.width, bmp.height, name);
  const bool runs = bmp.compression == kRuns8 || bmp.compression == kRuns4;
  return runs ? Runs(file, bmp, name).paint(name) : read_rows(file, bmp, name);
}

ImageInfo inspect_bmp(std::span<const std::byte> file, std::string_view name) {
  const Bmp bmp = read_bmp_header(file, name);
  check_image_size(bmp.width, bmp.height, name);
  return {.format = "bmp",
          .width = static_cast<int>(bmp.width),
          .height = static_cast<int>(bmp.height),
          .channels = 3,
          .alpha = bmp.alpha};
}

}  // namespace engine
