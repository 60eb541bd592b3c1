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
Image decode_bmp(std::span<const std::byte> file, std::string_view name);
Image decode_gif(std::span<const std::byte> file, std::string_view name);
Image decode_png(std::span<const std::byte> file, std::string_view name);
Image decode_pnm(std::span<const std::byte> file, std::string_view name);
Image decode_tga(std::span<const std::byte> file, std::string_view name);
Image decode_tiff(std::span<const std::byte> file, std::string_view name);
Image decode_webp(std::span<const std::byte> file, std::string_view name);

// These read the header alone.
ImageInfo inspect_bmp(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_gif(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_jpeg(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_png(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_pnm(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_tga(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_tiff(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_webp(std::span<const std::byte> file, std::string_view name);

// Whether the first bytes are those of the format, where they are no fixed text.
bool is_pnm(std::span<const std::byte> file);
bool is_tiff(std::span<const std::byte> file);
bool is_webp(std::span<const std::byte> file);

// Whether a file begins with these bytes, by which a format is told.
bool starts_with(std::span<const std::byte> file, std::string_view magic);

// Error(data) unless both sides and their product are within the limits of decode.h.
void check_image_size(int64_t width, int64_t height, std::string_view name);

// Four channels of ink to RGB, in the same memory and as PIL does it. Adobe writes ink inverted.
enum class Ink { as_it_is, inverted };
Image ink_to_rgb(Image cmyk, Ink stored);

}  // namespace engine
