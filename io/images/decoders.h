// One function per family of formats, for decode.cpp only; each returns the file's own number of
// channels, 1 or 3. `choose` may be empty: everything is wanted.
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
Image decode_stb(std::span<const std::byte> file, std::string_view name);  // PNG, BMP, GIF, TGA

// Their headers alone.
ImageInfo inspect_jpeg(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_pnm(std::span<const std::byte> file, std::string_view name);
ImageInfo inspect_stb(std::span<const std::byte> file, std::string_view name);

void check_image_size(int64_t width, int64_t height, std::string_view name);

}  // namespace engine
