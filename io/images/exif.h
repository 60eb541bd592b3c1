// The one thing read from EXIF and XMP: how the camera was held.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "io/images/image.h"

namespace engine {

// What stands before the TIFF structure in JPEG's APP1 segment, and in some other files.
inline constexpr std::string_view kExifSignature{"Exif\0\0", 6};

// The orientation tag of EXIF, a TIFF structure with or without the signature before it; nothing if
// the tag is absent, and 1 if its value is none of 1 to 8.
std::optional<int> exif_orientation(std::span<const std::byte> exif);

// EXIF's orientation (1 to 8), else tiff:Orientation in the text of XMP, else 1. Either may be
// empty.
int picture_orientation(std::span<const std::byte> exif, std::span<const std::byte> xmp);

// Turns the picture upright, as PIL's ImageOps.exif_transpose does.
Image upright(Image image, int orientation);

}  // namespace engine
