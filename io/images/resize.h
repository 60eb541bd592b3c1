// Antialiased resizing, equal to Pillow's Image.resize bit for bit, because recipes and checkpoints
// were made with it.
#pragma once

#include <string_view>

#include "io/images/image.h"

namespace engine {

enum class Interpolation { bilinear, bicubic };

std::string_view to_string(Interpolation interpolation);
Interpolation parse_interpolation(std::string_view text);  // Error(usage) if it is unknown

// How a part of a picture becomes another picture: `source`, which lies in the picture, is resized
// to width x height pixels, of which those in `window` are wanted.
struct Resampling {
  CropWindow source;
  int width, height;
  CropWindow window;
};

// The pixels of the picture that the wanted ones are made of. They lie in `source` and are at least
// one.
CropWindow pixels_read(const Resampling& resampling, Interpolation interpolation);

// Equals crop(resize(crop(picture, source), width, height), window). `view` begins at the pixel
// (left, top) of the picture and has at least what pixels_read() says.
Image resample(const ImageView& view, int left, int top, const Resampling& resampling,
               Interpolation interpolation);

// Resizes in two passes, the horizontal one first, with 8 bits between them. A pass that would
// change nothing is left out.
Image resize(const Image& image, int width, int height, Interpolation interpolation);

// torchvision's Resize(size): the shorter side becomes `size`, the other ⌊size · long / short⌋.
struct Size {
  int width, height;
};
Size shorter_side_to(int size, int width, int height);
Image resize_shorter(const Image& image, int size, Interpolation interpolation);

}  // namespace engine
