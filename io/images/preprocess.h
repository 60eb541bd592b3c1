// What a picture goes through before the network sees it: the resize, the centre crop, and the
// normalisation that the device applies. One description serves training, evaluation, prediction
// and the metadata of checkpoints.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "io/images/image.h"
#include "io/images/resize.h"

namespace engine {

struct Preprocess {
  int resize_height = 256;  // the size of the shorter side if resize_width is 0
  int resize_width = 0;
  Interpolation interpolation = Interpolation::bilinear;
  int crop = 224;  // the side of the square that the network gets
  // The statistics of values in [0, 1]; a picture of one channel uses the first entries.
  std::array<float, 3> mean{0.485f, 0.456f, 0.406f};  // ImageNet's
  std::array<float, 3> std{0.229f, 0.224f, 0.225f};
  int channels = 3;

  bool operator==(const Preprocess&) const = default;
};

// torchvision's transform for its first ImageNet weights (IMAGENET1K_V1); for mnist_cnn that of
// PyTorch's example. Error(usage) for a model that has none.
Preprocess default_preprocess(std::string_view model);

// The same for another side of the crop; the resize scales with it.
Preprocess with_crop(const Preprocess& preprocess, int crop);

// Reads --resize, which is N (for the shorter side) or HxW, and --crop, which is N. An Error(usage)
// names the flag unless every number is 1 … 16384.
void set_resize(Preprocess& preprocess, std::string_view text, std::string_view flag = "--resize");
void set_crop(Preprocess& preprocess, std::string_view text);
// Reads --mean and --std: three numbers with commas between them, one for all channels, or "none",
// with which values stay in [0, 1] (mean 0, std 1). An Error(usage) names the flag.
void set_mean(Preprocess& preprocess, std::string_view text);
void set_std(Preprocess& preprocess, std::string_view text);
// The resize as set_resize() reads it.
std::string format_resize(const Preprocess& preprocess);

// "resize 320 bicubic, crop 300, mean …, std …"
std::string describe(const Preprocess& preprocess);

// The JSON object in the metadata of checkpoints. Error(weights) if it is malformed.
std::string to_json(const Preprocess& preprocess);
Preprocess preprocess_from_json(std::string_view json);

// The size that the resize step gives a picture of width x height pixels.
Size resized_size(int width, int height, const Preprocess& preprocess);

// The resize step alone, and the whole transform, whose result has crop x crop pixels and is not
// yet normalised.
Image resize(const Image& image, const Preprocess& preprocess);
Image evaluate_transform(const Image& image, const Preprocess& preprocess);

// torchvision's CenterCrop: offsets round half to even, and a smaller image is padded with zeros.
// The corner is the left or the top of the window.
Image center_crop(const Image& image, int size);
int center_crop_corner(int side, int size);

// The window of that size whose corner is at (left, top). What lies outside the image is zero.
Image crop(const Image& image, int left, int top, int width, int height);

}  // namespace engine
