// Image files to pixels: JPEG (with MPO's first picture), PNG, WebP, GIF (of both the first frame),
// TIFF (the first page), BMP, TGA and PNM (P1 to P6). The format is told by the first bytes, never
// by the name of the file. Pixels equal PIL's bit for bit: palettes are looked up, and alpha is
// dropped, not blended, as convert("RGB") does; but 16-bit gray becomes 8 bits instead of being
// clipped. The orientation in EXIF or XMP is applied. A corrupt, truncated or oversized file is an
// Error(data) that names it, and takes no memory for pixels that it does not have. A JPEG file that
// lacks only its end marker is whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "io/images/image.h"

namespace engine {

// Limits that are checked by the header, before memory is allocated. PIL, too, refuses pictures of
// more pixels as decompression bombs.
inline constexpr int kMaxImageSide = 65'500;
inline constexpr int64_t kMaxImagePixels = 178'956'970;
// More bytes than these pixels take in any format: 16-bit RGBA would be 1.4 GB.
inline constexpr uint64_t kMaxImageBytes = uint64_t{1} << 31;

struct DecodeOptions {
  // --fast-decode: decodes a JPEG at 1/2, 1/4 or 1/8 while its shorter side stays at least this; 0
  // decodes it at full size. What comes after the last row of a part is then not read, so damage
  // there goes unnoticed.
  int reduce_to = 0;
};

// Says which part of a picture of that size is wanted; the part must not be empty.
using ChoosePart = std::function<CropWindow(int width, int height)>;

// A part at least as large as the wanted one, with the same pixels as in the whole picture.
struct DecodedPart {
  Image image;
  int left = 0, top = 0;      // where `image` begins in the picture
  int width = 0, height = 0;  // the size of the picture, which may be reduced
};

// `channels` is 3 (RGB) or 1 (gray: PIL's L = 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point).
// `name` appears in errors only.
Image decode(std::span<const std::byte> file, std::string_view name, int channels,
             DecodeOptions options = {});
// The bytes of an image file. Error(data) also if there are more than kMaxImageBytes, of which none
// are then read.
std::vector<std::byte> read_image_bytes(const std::filesystem::path& path);
Image read_image(const std::filesystem::path& path, int channels, DecodeOptions options = {});

// Decodes little more than the chosen part of an upright JPEG file, and all of other pictures.
// `recycled` gives its memory to the result.
DecodedPart decode_part(std::span<const std::byte> file, std::string_view name, int channels,
                        DecodeOptions options, const ChoosePart& choose, Image recycled = {});
DecodedPart read_part(const std::filesystem::path& path, int channels, DecodeOptions options,
                      const ChoosePart& choose, Image recycled = {});

// Makes gray of RGB as decode() does, or RGB of gray.
Image convert_channels(Image image, int channels);

}  // namespace engine
