// Antialiased resizing, equal to Pillow's Image.resize bit for bit: what the recipes and checkpoints
// were made with.
#pragma once

#include <string_view>

#include "io/image.h"

namespace engine {

enum class Interpolation { bilinear, bicubic };

std::string_view to_string(Interpolation interpolation);
Interpolation parse_interpolation(std::string_view text);  // Failure::usage if unknown

// Two passes, horizontal first, 8 bits between them; a pass that would change nothing is left
// out.
Image resize(const Image& image, int width, int height, Interpolation interpolation);

// torchvision's Resize(size): the shorter side becomes `size`, the other ⌊size · long / short⌋.
Image resize_shorter(const Image& image, int size, Interpolation interpolation);

}  // namespace engine
