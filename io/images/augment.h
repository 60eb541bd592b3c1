// Random changes to training pictures. A stage edits one image in place with random numbers from
// its Rng, so the result depends on that key alone. Colour follows torchvision on PIL images. Warps
// and blur are OpenCV's, which is told once to keep to the calling thread (cv::setNumThreads(0)),
// because the loader's threads are the parallelism.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/rng.h"
#include "io/images/image.h"
#include "io/images/preprocess.h"

namespace engine {

using Stage = std::function<void(Image&, Rng&)>;

struct Interval {
  float low, high;
  bool operator==(const Interval&) const = default;
};

// ---- the recipe: every augmentation with its numbers

enum class CropKind {
  center,   // what evaluation does: resize, centre crop
  random,   // resize, then a window of the size anywhere
  resized,  // a window of random area and ratio, resized: Szegedy et al. 2014
};

// What a warp does, about the image's centre. Lengths are fractions of its width and height, angles
// are in degrees.
struct Affine {
  float angle = 0;  // counter-clockwise
  float scale = 1;
  float shear = 0;  // along x
  float translate_x = 0, translate_y = 0;
};
struct AffineRanges {
  Interval angle{0, 0}, scale{1, 1}, shear{0, 0}, translate{0, 0};
  bool operator==(const AffineRanges&) const = default;
};

struct Jitter {
  float brightness = 0, contrast = 0, saturation = 0;  // factors in [max(0, 1 − x), 1 + x]
  float hue = 0;                                       // turns in ±hue, at most 0.5
  bool operator==(const Jitter&) const = default;
};

struct Blur {
  float probability = 0;
  int kernel = 5;  // pixels, odd
  Interval sigma{0.1f, 1.5f};
  bool operator==(const Blur&) const = default;
};

// Sets a rectangle of `area` of the image and of `ratio` (height : width, uniform in its logarithm)
// to the mean that normalisation subtracts, as torchvision's RandomErasing(value=0) does. If no
// rectangle fits in ten tries, nothing is erased. Zhong et al. 2017.
struct Erasing {
  float probability = 0;
  Interval area{0.02f, 0.33f}, ratio{0.3f, 3.3f};
  bool operator==(const Erasing&) const = default;
};

// torchvision's RandAugment on PIL images (Cubuk et al. 2019): applies that many of fourteen
// operations, one after the other, at one magnitude.
struct RandAugment {
  int operations = 0;
  int magnitude = 9;  // of 0 … bins − 1
  int bins = 31;
  bool operator==(const RandAugment&) const = default;
};

// timm's Mixup in batch mode. `mixup` and `cutmix` are the alphas of their Beta distributions; one
// of 0 is not used.
struct Mixing {
  float mixup = 0, cutmix = 0;
  float probability = 1;           // that a batch is mixed at all
  float switch_probability = 0.5;  // that it is mixed by cutmix, if both are used
  bool used() const { return mixup > 0 || cutmix > 0; }
  bool operator==(const Mixing&) const = default;
};

enum class Augment {
  none,      // what evaluation does: resize, centre crop
  light,     // resize, random crop, horizontal flip: the recipe of the reference systems
  standard,  // random resized crop, horizontal flip: torchvision's for ImageNet
  strong,    // standard with both flips, affine warps, colour jitter and blur: for small data sets
};
Augment parse_augment(std::string_view text);  // Error(usage) if it is unknown
std::string_view to_string(Augment augment);

// The stages of a sample stand in the order in which they act and take their random numbers. A
// stage that is off takes none.
//   crop       random: top, left, each only if there is a choice; resized: sample_crop()
//   flips      horizontal, vertical: one number each
//   affine     angle, scale, shear, translate x, y
//   RandAugment  per operation: which one; a sign if it has one
//   jitter     sample_jitter()
//   blur       whether; sigma if so
//   erasing    whether; per try area, ratio; top, left
struct AugmentConfig {
  CropKind crop = CropKind::center;
  // A random crop may reach into that many zeros around the image, as torchvision's may.
  int crop_padding = 0;
  // The area of a resized crop as a fraction of the image, and width : height.
  Interval crop_area{0.08f, 1.f}, crop_ratio{3.f / 4.f, 4.f / 3.f};
  float horizontal_flip = 0, vertical_flip = 0;  // probabilities
  AffineRanges affine;
  RandAugment rand_augment;
  Jitter jitter;
  Blur blur;
  Erasing erasing;
  Mixing mixing;  // mixes whole batches, by sample_mixes() of mix.h

  bool operator==(const AugmentConfig&) const = default;
};

AugmentConfig preset(Augment augment);
void check(const AugmentConfig& config);  // an Error(usage) names the number that is out of range
// Says what is on, with its numbers: "random crop, flip 0.5, …".
std::string describe(const AugmentConfig& config);

// The stages from a decoded image to the square that the network gets. A resize to the size that an
// image has already (because it comes from a pack) changes nothing and costs nothing.
std::vector<Stage> train_stages(const AugmentConfig& config, const Preprocess& preprocess);
// The stages after the crop, for callers of sample_crop_and_resize() and resample().
std::vector<Stage> edit_stages(const AugmentConfig& config, const Preprocess& preprocess);

// ---- random numbers that stages and devices share

// The window of an image of width x height pixels that becomes size x size pixels. For center and
// random the image has been resized and the window is `size` wide. For resized there are ten tries
// of an area and a ratio (uniform in its logarithm), with top and left if the window fits; after
// them it is the largest centred window whose ratio is in range.
CropWindow sample_crop(const AugmentConfig& config, int width, int height, int size, Rng& rng);

// The same window as a part of the decoded picture: what preprocessing resizes, and to what size.
Resampling sample_crop_and_resize(const AugmentConfig& config, const Preprocess& preprocess,
                                  int width, int height, Rng& rng);

struct JitterStep {
  enum Kind : uint8_t { brightness, contrast, saturation, hue } kind;
  float value;  // factor or turns
  bool used;    // whether its range is more than the neutral value
};
// The steps in the order in which they are applied. Three random numbers give the order, then one
// is taken for each step in that order.
std::array<JitterStep, 4> sample_jitter(const Jitter& jitter, Rng& rng);

// ---- stages: geometry
Stage crop_and_resize(const AugmentConfig& config, const Preprocess& preprocess);
Stage random_horizontal_flip(float probability = 0.5f);
Stage random_vertical_flip(float probability = 0.5f);
Stage random_affine(const AffineRanges& ranges);
Stage random_erasing(const Erasing& erasing, const std::array<uint8_t, 3>& fill);

// ---- stages: colour
Stage color_jitter(const Jitter& jitter);
Stage random_gaussian_blur(const Blur& blur);
Stage random_operations(const RandAugment& rand_augment);

// ---- the edits that stages make with their numbers
void flip_horizontal(Image& image);
void flip_vertical(Image& image);
void warp(Image& image, const Affine& affine);  // bilinear, zeros from outside
void blur(Image& image, int kernel, float sigma);
void fill(Image& image, const CropWindow& window, const std::array<uint8_t, 3>& color);
void adjust_brightness(Image& image, float factor);
void adjust_contrast(Image& image, float factor);
void adjust_saturation(Image& image, float factor);
void adjust_hue(Image& image, float turns);
void adjust_sharpness(Image& image, float factor);  // a blend with PIL's SMOOTH filter
void posterize(Image& image, int bits);             // keeps the high bits
void solarize(Image& image, float threshold);       // inverts what is not below the threshold
void autocontrast(Image& image);                    // stretches each channel to 0 … 255
void equalize(Image& image);                        // flattens each channel's histogram

}  // namespace engine
