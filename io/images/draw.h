// Image sets that are drawn, not downloaded: printed digits and coloured objects in ten classes
// each, to try training where there are no data. The same seed draws the same images.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "engine/rng.h"
#include "io/images/image.h"

namespace engine {

// A gray picture of 28 x 28 pixels, white on black as in MNIST. Font, stroke, size, slant,
// rotation, position, blur and noise vary.
Image draw_digit(Rng& rng, int digit);

inline constexpr std::array<std::string_view, 10> kObjectClasses = {
    "arrow", "checker", "crescent", "cross",   "disk",
    "ring",  "square",  "star",     "stripes", "triangle"};

// An RGB picture of size x size pixels: an object over clutter, with blur and noise. Position,
// scale, rotation and both colours are random and say nothing about the class.
Image draw_object(Rng& rng, int object, int size);

enum class DrawnSet { digits, objects };

struct DrawOptions {
  int train_per_class = 400, validation_per_class = 50;
  int size = 64;  // the side of a picture of an object, in pixels
  uint64_t seed = 1;
};

// Writes FOLDER/{train,val}/CLASS/NNNNN.{png,jpg}: digits as PNG, objects as PNG or as JPEG of
// varied quality. A folder that holds something already is an Error.
void draw_dataset(const std::filesystem::path& folder, DrawnSet set, const DrawOptions& options);

}  // namespace engine
