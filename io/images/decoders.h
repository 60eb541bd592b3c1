// One function per family of formats, which only decode.cpp and inspect.cpp call. Each returns the
// file's own number of channels, 1 or 3. If `choose` is empty everything is wanted.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "io/images/decode.h"
#include "io/images/image.h"
#include "io/images/inspect.h"

namespace engine {

DecodedPart decode_jpeg(std::span<const std::byte> file, std::string_view name,
                        DecodeOptions options, const ChoosePart& choose, Image recycled);
Image decode_pnm(std::span<const std::byte> file, std::string_view name);
Image decode_png(std::span<const std::byte> file, std::string_view name);
Image decode_stb(std::span<const std::byte> file, std::string_view name);  // BMP, GIF, TGA

// These read the header alone.
ImageInfo inspect_jpeg(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_pnm(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_png(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_stb(std::span<const std::byte> file, std::string_view name);

// Whether a file begins with these bytes, by which a format is told.
bool starts_with(std::span<const std::byte> file, std::string_view magic);
inline constexpr std::string_view kJpegMagic = "\xff\xd8\xff", kPngMagic = "\x89PNG";

// Error(data) unless both sides and their product are within the limits of decode.h.
void check_image_size(int64_t width, int64_t height, std::string_view name);

}  // namespace engine
