// Image files to pixels. The format is told by the first bytes, never by the file's name.
// JPEG through libjpeg-turbo, equal to PIL's decoding bit for bit; PNG, BMP, GIF (first frame) and TGA
// through stb_image; PNM (P5, P6) by hand. Palettes are looked up and alpha is dropped, not blended,
// as PIL's convert("RGB") does; 16 bits become 8. EXIF orientation of JPEG files is applied.
// A corrupt, truncated or oversized file is Error(Failure::data) that names it.
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

// Checked against the header before memory is allocated.
inline constexpr int kMaxImageSide = 65'500;
inline constexpr int64_t kMaxImagePixels =
    178'956'970;  // where PIL, too, refuses a decompression bomb

struct DecodeOptions {
  // --fast-decode: decode a JPEG at 1/2, 1/4 or 1/8 while its shorter side stays at least this; 0:
  // full size. Of a part, what comes after its last row is not read, so damage there goes unnoticed.
  int reduce_to = 0;
};

// Which part of a picture of that size is wanted. Not empty.
using ChoosePart = std::function<CropWindow(int width, int height)>;

// A part at least as large as the wanted one, with the same pixels as in the whole picture.
struct DecodedPart {
  Image image;
  int left = 0, top = 0;      // of `image` in the picture
  int width = 0, height = 0;  // of the picture, possibly reduced
};

// channels: 3 (RGB) or 1 (gray: PIL's L = 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point).
// `name` appears in errors only.
Image decode(std::span<const std::byte> file, std::string_view name, int channels,
             DecodeOptions options = {});
Image read_image(const std::filesystem::path& path, int channels, DecodeOptions options = {});

// Decodes of an upright JPEG file little more than what is chosen, of other pictures everything.
// `recycled` gives its memory to the result.
DecodedPart decode_part(std::span<const std::byte> file, std::string_view name, int channels,
                        DecodeOptions options, const ChoosePart& choose, Image recycled = {});
DecodedPart read_part(const std::filesystem::path& path, int channels, DecodeOptions options,
                      const ChoosePart& choose, Image recycled = {});

// 1 ↔ 3 channels; alpha or CMYK never reach an Image.
Image convert_channels(Image image, int channels);

}  // namespace engine
