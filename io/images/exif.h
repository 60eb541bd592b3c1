// The one thing read from EXIF: how the camera was held.
#pragma once

#include <cstddef>
#include <span>

#include "io/images/image.h"

namespace engine {

// The orientation tag (1 to 8) of a TIFF structure, which is what PNG's eXIf chunk holds; 1 if the
// tag is absent or malformed.
int tiff_orientation(std::span<const std::byte> tiff);

// The same of JPEG's APP1 payload: "Exif\0\0", then a TIFF structure.
int exif_orientation(std::span<const std::byte> app1);

// Turns the picture upright, as PIL's ImageOps.exif_transpose does.
Image upright(Image image, int orientation);

}  // namespace engine
