// Image sets that are drawn, not downloaded: printed digits and coloured objects in ten classes
// each, and scenes with several labels, to try training where there are no data. The same seed
// draws the same images.
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

// Each is one of kObjectClasses.
inline constexpr std::array<std::string_view, 5> kSceneLabels = {"cross", "ring", "star", "stripes",
                                                                 "triangle"};
using Scene = std::array<bool, kSceneLabels.size()>;  // which of them a picture shows

// An RGB picture of size x size pixels with the objects that the scene names, once each and none
// hiding another, beside disks and squares, which are no labels.
Image draw_scene(Rng& rng, const Scene& scene, int size);

enum class DrawnSet { digits, objects, scenes };

struct DrawOptions {
  int train_per_class = 400, validation_per_class = 50;
  int size = 64;  // the side of a picture of an object, in pixels
  uint64_t seed = 1;
  double missing = 0;  // of scenes: the share of the labels of training images that is not told
};

// Writes FOLDER/{train,val}/CLASS/NNNNN.{png,jpg}: digits as PNG, objects as PNG or as JPEG of
// varied quality. Of scenes FOLDER/images/{train,val}_NNNNN.png, ten times as many, and
// FOLDER/labels.csv with path, split and a column of 1, 0 and nothing for each label; they show
// each label with a chance of its own. A folder that holds something already is an Error.
void draw_dataset(const std::filesystem::path& folder, DrawnSet set, const DrawOptions& options);

}  // namespace engine
