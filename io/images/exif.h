// The one thing read from EXIF: how the camera was held.
#pragma once

#include <cstddef>
#include <span>

#include "io/images/image.h"

namespace engine {

// Orientation tag (1–8) of an APP1 payload, "Exif\0\0" and a TIFF structure; 1 if absent or
// malformed.
int exif_orientation(std::span<const std::byte> app1);

// Turns the picture upright, as PIL's ImageOps.exif_transpose does.
Image upright(Image image, int orientation);

}  // namespace engine
