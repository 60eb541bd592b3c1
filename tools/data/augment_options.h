// The flags of augmentation: a preset, and each of its numbers.
#pragma once

#include <optional>
#include <string>

#include "io/data/dataset.h"
#include "io/images/augment.h"
#include "tools/cli/options.h"

namespace engine {

inline constexpr Choice<Augment> kAugmentations[] = {{"none", Augment::none},
                                                     {"light", Augment::light},
                                                     {"standard", Augment::standard},
                                                     {"strong", Augment::strong}};
inline constexpr Choice<CropKind> kCropKinds[] = {
    {"center", CropKind::center}, {"random", CropKind::random}, {"resized", CropKind::resized}};

struct AugmentOptions {
  Augment augment = Augment::light;
  std::optional<CropKind> train_crop;
  std::optional<int> crop_padding, blur_kernel;
  std::optional<std::string> crop_area, crop_ratio, scale, jitter, blur_sigma, erasing_area,
      erasing_ratio, randaugment;
  std::optional<float> hflip, vflip, rotation, shear, translate, blur, erasing, mixup, cutmix,
      mix_probability, mix_switch;

  void visit_augment(auto& v) {
    const Within probability{0, 1};
    v.group("Augmentation (default of each: the preset's)");
    v("--augment, --aug NAME", augment,
      "none; light: random crop and flip; standard: random resized crop; strong", kAugmentations);
    v("--train-crop NAME", train_crop, "center, random or resized", kCropKinds);
    v("--crop-padding N", crop_padding, "zeros around the image before a random crop",
      Within{0, 16384});
    v("--crop-area A,B", crop_area, "of a resized crop, as parts of the image");
    v("--crop-ratio A,B", crop_ratio, "of a resized crop, width to height");
    v("--hflip P", hflip, "probability of a horizontal flip", probability);
    v("--vflip P", vflip, "probability of a vertical flip", probability);
    v("--rotation X", rotation, "in ±X degrees", Within{0, 360});
    v("--scale A,B", scale, "factor of an affine warp");
    v("--shear X", shear, "in ±X degrees", Within{0, 89});
    v("--translate X", translate, "in ±X of width and height", probability);
    v("--jitter B,C,S,H", jitter,
      "brightness, contrast, saturation in 1 ± value, hue in ± value (turns, at most 0.5)");
    v("--blur P", blur, "probability of a Gaussian blur", probability);
    v("--blur-kernel N", blur_kernel, "pixels, odd", Within{1, 255});
    v("--blur-sigma A,B", blur_sigma, "pixels");
    v("--erasing P", erasing, "probability that a rectangle is erased", probability);
    v("--erasing-area A,B", erasing_area, "as parts of the image");
    v("--erasing-ratio A,B", erasing_ratio, "height to width");
    v("--randaugment N,M", randaugment, "N operations at magnitude M of 0 to 30");
    v("--mixup X", mixup, "alpha of mixup, of whole batches", Within{0, 1000});
    v("--cutmix X", cutmix, "alpha of cutmix", Within{0, 1000});
    v("--mix-probability P", mix_probability, "of a batch to be mixed", probability);
    v("--mix-switch P", mix_switch, "of cutmix where mixup is used too", probability);
  }
};

// The preset with the flags that were given; Failure::usage names a flag that is out of range.
AugmentConfig augment_config(const AugmentOptions& options);

// Takes flips out of the recipe where images are digits or letters, which mirrored are others or
// none at all: with the model mnist_cnn, with idx files, and where the classes are 0 … 9. Flags
// that ask for flips win. Returns what people are to be told; empty if nothing changes.
std::string keep_upright(AugmentConfig& config, const AugmentOptions& options,
                         std::string_view model, const Dataset& train);

}  // namespace engine
