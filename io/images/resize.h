// Antialiased resizing, equal to Pillow's Image.resize bit for bit: what the recipes and checkpoints
// were made with.
#pragma once

#include <string_view>

#include "io/images/image.h"

namespace engine {

enum class Interpolation { bilinear, bicubic };

std::string_view to_string(Interpolation interpolation);
Interpolation parse_interpolation(std::string_view text);  // Failure::usage if unknown

// How a part of a picture becomes another picture: `source`, which lies in it, is resized to
// width x height pixels, of which those in `window` are wanted.
struct Resampling {
  CropWindow source;
  int width, height;
  CropWindow window;
};

// The picture's pixels that the wanted ones are made of, at least one; they lie in `source`.
CropWindow pixels_read(const Resampling& resampling, Interpolation interpolation);

// Equal to crop(resize(crop(picture, source), width, height), window), from what pixels_read() says
// at least: `view` begins at the picture's pixel (left, top).
Image resample(const ImageView& view, int left, int top, const Resampling& resampling,
               Interpolation interpolation);

// Two passes, horizontal first, 8 bits between them; a pass that would change nothing is left
// out.
Image resize(const Image& image, int width, int height, Interpolation interpolation);

// torchvision's Resize(size): the shorter side becomes `size`, the other ⌊size · long / short⌋.
struct Size {
  int width, height;
};
Size shorter_side_to(int size, int width, int height);
Image resize_shorter(const Image& image, int size, Interpolation interpolation);

}  // namespace engine
