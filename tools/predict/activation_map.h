// Class activation maps (Zhou et al., CVPR 2016): where in an image the evidence for a class lies.
#pragma once

#include <span>
#include <vector>

#include "io/images/image.h"

namespace engine {

// Values on a grid, rows from top to bottom.
struct ActivationMap {
  int height = 0, width = 0;
  std::vector<float> values;  // (height, width)
};

// M(y, x) = Σ_k weights(k) · features(y, x, k), summed in double. With `features` (height, width,
// channels) as the global average reads them and `weights` (channels) of a class, the mean of the
// map is the class's logit less its bias.
ActivationMap activation_map(std::span<const float> features, int height, int width,
                             std::span<const float> weights);

// Bilinear, with the edges of the grids at the same place: PyTorch's interpolate(mode="bilinear",
// align_corners=False).
ActivationMap resize_bilinear(const ActivationMap& map, int height, int width);

// The colour of a value from 0 to 1: matplotlib's inferno, between 17 of its colours. Lightness
// grows with the value.
struct Rgb {
  uint8_t r, g, b;
};
Rgb map_colour(float value);

// The picture, with the map over it, enlarged to its size. The lowest value of the map is 0 on the
// scale of colours and the highest 1; of a map that is one value all are 0. RGB.
Image overlay(const Image& picture, const ActivationMap& map);

}  // namespace engine
