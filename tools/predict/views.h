// The views of an image whose probabilities --tta averages.
#pragma once

#include <cstdint>

#include "tools/cli/options.h"

namespace engine {

// flips: the image and its mirror image, left and right exchanged. dihedral: all eight flips and
// quarter turns of the square.
enum class Views { none, flips, dihedral };
inline constexpr Choice<Views> kViews[] = {
    {"none", Views::none}, {"flips", Views::flips}, {"dihedral", Views::dihedral}};

constexpr int count_of(Views views) {
  return views == Views::none ? 1 : views == Views::flips ? 2 : 8;
}

// Writes view `view` of `count` images (count, side, side, channels): 0 is the image itself; bit 0
// exchanges left and right, bit 1 top and bottom, bit 2 then x and y.
void write_view(uint8_t* to, const uint8_t* from, int count, int side, int channels, int view);

}  // namespace engine
