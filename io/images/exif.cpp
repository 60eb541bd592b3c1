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
  std::optional<uint32_t> u8(size_t at) const { return read(at, 1); }
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

constexpr uint32_t kOrientationTag = 0x0112;
constexpr size_t kEntryBytes = 12;  // tag, type, count, value

int checked(uint32_t orientation) {
  return orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
}

// The value of a directory's entry: writers store it as SHORT, some as LONG or BYTE.
uint32_t entry_value(const Tiff& tiff, size_t entry) {
  constexpr uint32_t kByte = 1, kShort = 3, kLong = 4;
  const uint32_t type = tiff.u16(entry + 2).value_or(0), count = tiff.u32(entry + 4).value_or(0);
  if (count != 1) return 0;
  if (type == kByte) return tiff.u8(entry + 8).value_or(0);
  if (type == kShort) return tiff.u16(entry + 8).value_or(0);
  return type == kLong ? tiff.u32(entry + 8).value_or(0) : 0;
}

std::optional<int> tiff_orientation(const Tiff& tiff) {
  if (tiff.u16(2) != 42u) return std::nullopt;
  const size_t directory = tiff.u32(4).value_or(0);
  const uint32_t entries = tiff.u16(directory).value_or(0);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + kEntryBytes * i;
    if (tiff.u16(entry) == kOrientationTag) return checked(entry_value(tiff, entry));
  }
  return std::nullopt;
}

// The digit of tiff:Orientation="6" or <tiff:Orientation>6.
std::optional<int> xmp_orientation(std::string_view text) {
  constexpr std::string_view kKey = "tiff:Orientation";
  for (size_t at = text.find(kKey); at != text.npos; at = text.find(kKey, at + 1)) {
    std::string_view rest = text.substr(at + kKey.size());
    if (rest.starts_with("=\""))
      rest.remove_prefix(2);
    else if (rest.starts_with('>'))
      rest.remove_prefix(1);
    else
      continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return checked(uint32_t(rest[0] - '0'));
  }
  return std::nullopt;
}

}  // namespace

std::optional<int> exif_orientation(std::span<const std::byte> exif) {
  const bool is_signed =
      exif.size() >= kExifSignature.size() &&
      std::memcmp(exif.data(), kExifSignature.data(), kExifSignature.size()) == 0;
  return tiff_orientation(Tiff(is_signed ? exif.subspan(kExifSignature.size()) : exif));
}

int picture_orientation(std::span<const std::byte> exif, std::span<const std::byte> xmp) {
  if (const auto found = exif_orientation(exif)) return *found;
  return xmp_orientation({reinterpret_cast<const char*>(xmp.data()), xmp.size()}).value_or(1);
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
