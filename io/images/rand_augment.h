// RandAugment's operations one by one, equal to torchvision's on PIL images: nearest neighbours,
// zeros from outside.
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
bool is_signed(Operation operation);              // applied with ± its magnitude

// What the bin stands for: a slope, pixels, degrees, a change of a factor from 1, bits or a
// threshold; 0 for an operation without one. Positive; float arithmetic as torch.linspace's.
double magnitude_of(Operation operation, int bin, int bins, int width, int height);

void apply(Image& image, Operation operation, double magnitude);

}  // namespace engine
