// RandAugment's operations one by one, equal to torchvision's on PIL images: they take the nearest
// pixel, and zeros from outside the image.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/images/image.h"

namespace engine {

enum class Operation {
  identity,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  rotate,
  brightness,
  color,
  contrast,
  sharpness,
  posterize,
  solarize,
  autocontrast,
  equalize,
};
inline constexpr int kOperations = 14;

std::string_view to_string(Operation operation);  // "ShearX", as torchvision's
bool is_signed(Operation operation);              // whether the magnitude gets a random sign

// The magnitude that a bin stands for: a slope, pixels, degrees, a difference of a factor from 1,
// bits or a threshold. It is not negative, and 0 for an operation that has none. The arithmetic is
// that of torch.linspace in float.
double magnitude_of(Operation operation, int bin, int bins, int width, int height);

void apply(Image& image, Operation operation, double magnitude);

}  // namespace engine
