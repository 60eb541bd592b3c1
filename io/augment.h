// Random changes to training pictures. A stage edits one image in place with the numbers it draws
// from its Rng, so the result depends on that key alone. Colour follows torchvision on PIL images;
// warps and blur are OpenCV's, which is told once to keep to the calling thread
// (cv::setNumThreads(0)): the loader's threads are the parallelism.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "engine/rng.h"
#include "io/image.h"
#include "io/preprocess.h"

namespace engine {

using Stage = std::function<void(Image&, Rng&)>;

struct Interval {
  float low, high;
};

// ---- geometry
Stage resize_to(const Preprocess& preprocess);  // its resize step; draws nothing
Stage crop_center(int size);
Stage random_crop(int size);  // a smaller image is first padded with zeros, evenly
// A window of `area` of the image and of `ratio` (width : height, drawn in its logarithm), resized
// to a square. Ten tries, then the largest window of a ratio in range, centred.
Stage random_resized_crop(int size, Interpolation interpolation, Interval area = {0.08f, 1.f},
                          Interval ratio = {3.f / 4.f, 4.f / 3.f});
Stage random_horizontal_flip(float probability = 0.5f);
Stage random_vertical_flip(float probability = 0.5f);

// What a warp does, about the image's centre; lengths as parts of its width and height, angles in
// degrees.
struct Affine {
  float angle = 0;  // counter-clockwise
  float scale = 1;
  float shear = 0;  // along x
  float translate_x = 0, translate_y = 0;
};
struct AffineRanges {
  Interval angle{0, 0}, scale{1, 1}, shear{0, 0}, translate{0, 0};
};
Stage random_rotation(float degrees);  // in ±degrees
Stage random_affine(const AffineRanges& ranges);

// ---- colour
struct Jitter {
  float brightness = 0, contrast = 0, saturation = 0;  // factors in [max(0, 1 − x), 1 + x]
  float hue = 0;                                       // turns in ±hue, at most 0.5
};
Stage color_jitter(const Jitter& jitter);  // the four in random order
Stage random_gaussian_blur(int kernel, Interval sigma, float probability);

// ---- recipes
enum class Augment {
  none,      // what evaluation does: resize, centre crop
  light,     // resize, random crop, horizontal flip: the recipe of the reference systems
  standard,  // random resized crop, horizontal flip: torchvision's for ImageNet
  strong,    // standard with both flips, affine warps, colour jitter and blur: for small data sets
};
Augment parse_augment(std::string_view text);  // Failure::usage if unknown
std::string_view to_string(Augment augment);
std::vector<Stage> train_stages(Augment augment, const Preprocess& preprocess);

// ---- the edits that stages make once they have drawn their numbers
void flip_horizontal(Image& image);
void flip_vertical(Image& image);
void warp(Image& image, const Affine& affine);  // bilinear, zeros from outside
void blur(Image& image, int kernel, float sigma);
void adjust_brightness(Image& image, float factor);
void adjust_contrast(Image& image, float factor);
void adjust_saturation(Image& image, float factor);
void adjust_hue(Image& image, float turns);

}  // namespace engine
