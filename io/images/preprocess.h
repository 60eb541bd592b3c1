// What a picture goes through before the network sees it: resize, centre crop, and the normalisation
// that the device applies. One description serves training, evaluation, prediction and the metadata
// of checkpoints.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "io/images/image.h"
#include "io/images/resize.h"

namespace engine {

struct Preprocess {
  int resize_height = 256;  // of the shorter side if resize_width is 0
  int resize_width = 0;
  Interpolation interpolation = Interpolation::bilinear;
  int crop = 224;  // side of the square that the network gets
  // Of values in [0, 1]; one channel uses the first entry.
  std::array<float, 3> mean{0.485f, 0.456f, 0.406f};  // ImageNet's
  std::array<float, 3> std{0.229f, 0.224f, 0.225f};
  int channels = 3;

  bool operator==(const Preprocess&) const = default;
};

// torchvision's transform of the ImageNet weights (EfficientNet: IMAGENET1K_V1), for mnist_cnn that
// of PyTorch's example.
Preprocess default_preprocess(std::string_view model);  // Failure::usage for a model without one

// The same for another side of the crop: the resize scales with it.
Preprocess with_crop(const Preprocess& preprocess, int crop);

// --resize N (shorter side) or HxW; --crop N. Failure::usage, which names the flag, unless 1 … 16384.
void set_resize(Preprocess& preprocess, std::string_view text, std::string_view flag = "--resize");
void set_crop(Preprocess& preprocess, std::string_view text);
std::string format_resize(const Preprocess& preprocess);  // what set_resize reads

// "resize 320 bicubic, crop 300, mean …, std …"
std::string describe(const Preprocess& preprocess);

// The JSON object in checkpoint metadata; a malformed one is Failure::weights.
std::string to_json(const Preprocess& preprocess);
Preprocess preprocess_from_json(std::string_view json);

Size resized_size(int width, int height, const Preprocess& preprocess);  // of the resize step

// The resize step alone, and all of it: crop x crop pixels, not yet normalised.
Image resize(const Image& image, const Preprocess& preprocess);
Image evaluate_transform(const Image& image, const Preprocess& preprocess);

// torchvision's CenterCrop: offsets round half to even, a smaller image is padded with zeros.
Image center_crop(const Image& image, int size);
int center_crop_corner(int side, int size);  // its left or top

// The window of that size whose corner is at (left, top); what lies outside the image is zero.
Image crop(const Image& image, int left, int top, int width, int height);

}  // namespace engine
