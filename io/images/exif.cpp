#include "io/images/exif.h"

#include <cstring>
#include <optional>
#include <string_view>

namespace engine {
namespace {

// Reads the integers of a TIFF structure in its own byte order and within its bounds.
class Tiff {
 public:
  explicit Tiff(std::span<const std::byte> bytes) : bytes_(bytes) {
    little_ = bytes.size() >= 2 && bytes[0] == std::byte{'I'} && bytes[1] == std::byte{'I'};
  }
  std::optional<uint32_t> u16(size_t at) const { return read(at, 2); }
  std::optional<uint32_t> u32(size_t at) const { return read(at, 4); }

 private:
  std::optional<uint32_t> read(size_t at, size_t count) const {
    if (at > bytes_.size() || bytes_.size() - at < count) return std::nullopt;
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) {
      const size_t from = little_ ? at + count - 1 - i : at + i;
      value = value << 8 | std::to_integer<uint32_t>(bytes_[from]);
    }
    return value;
  }

  std::span<const std::byte> bytes_;
  bool little_;
};

constexpr std::string_view kSignature{"Exif\0\0", 6};
constexpr uint32_t kOrientationTag = 0x0112;
constexpr size_t kEntryBytes = 12;  // tag, type, count, value

}  // namespace

int exif_orientation(std::span<const std::byte> app1) {
  if (app1.size() < kSignature.size()) return 1;
  if (std::memcmp(app1.data(), kSignature.data(), kSignature.size()) != 0) return 1;
  return tiff_orientation(app1.subspan(kSignature.size()));
}

int tiff_orientation(std::span<const std::byte> bytes) {
  const Tiff tiff(bytes);
  if (tiff.u16(2) != 42u) return 1;
  const size_t directory = tiff.u32(4).value_or(0);
  const uint32_t entries = tiff.u16(directory).value_or(0);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + kEntryBytes * i;
    if (tiff.u16(entry) != kOrientationTag) continue;
    const uint32_t value = tiff.u16(entry + 8).value_or(1);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image upright(Image image, int orientation) {
  if (orientation == 1) return image;
  const bool swap = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image out(swap ? image.height : image.width, swap ? image.width : image.height, image.channels);
  uint8_t* to = out.pixels.data();
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x, to += out.channels) {
      const int across = swap ? y : x, down = swap ? x : y;
      const int from_x = flip_x ? image.width - 1 - across : across;
      const int from_y = flip_y ? image.height - 1 - down : down;
      std::memcpy(to, image.row(from_y) + size_t(from_x) * out.channels, size_t(out.channels));
    }
  }
  return out;
}

}  // namespace engine
