#include "io/images/augment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "engine/error.h"
#include "io/images/opencv.h"

namespace engine {
namespace {

float sample_in(Rng& rng, Interval range) {
  return rng.uniform(range.low, range.high);
}

// A ratio that is uniform in its logarithm.
double sample_ratio(Rng& rng, Interval ratio) {
  return std::exp(sample_in(rng, {std::log(ratio.low), std::log(ratio.high)}));
}

int sample_below(Rng& rng, int n) {
  return static_cast<int>(rng.below(static_cast<uint32_t>(n)));
}

int sample_corner(int side, int size, int padding, Rng& rng) {
  const int room = side + 2 * padding - size;
  return room >= 0 ? sample_below(rng, room + 1) - padding : -((size - side) / 2);
}

CropWindow sample_resized_window(int image_width, int image_height, Rng& rng, Interval area,
                                 Interval ratio) {
  const double pixels = static_cast<double>(image_width) * image_height;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = pixels * sample_in(rng, area);
    const double shape = sample_ratio(rng, ratio);
    const int width = static_cast<int>(std::nearbyint(std::sqrt(target * shape)));
    const int height = static_cast<int>(std::nearbyint(std::sqrt(target / shape)));
    if (width < 1 || width > image_width || height < 1 || height > image_height) continue;
    const int top = sample_below(rng, image_height - height + 1);
    const int left = sample_below(rng, image_width - width + 1);
    return {left, top, width, height};
  }
  const double shape = static_cast<double>(image_width) / image_height;
  int width = image_width, height = image_height;
  if (shape < ratio.low) height = static_cast<int>(std::nearbyint(width / ratio.low));
  if (shape > ratio.high) width = static_cast<int>(std::nearbyint(height * ratio.high));
  return {(image_width - width) / 2, (image_height - height) / 2, width, height};
}

// Where the warp of an image of that size puts each point: output = matrix · (x, y, 1).
cv::Matx23d matrix(const Affine& affine, int width, int height) {
  constexpr double kRadians = std::numbers::pi / 180;
  const double cosine = std::cos(affine.angle * kRadians), sine = std::sin(affine.angle * kRadians);
  const double shear = std::tan(affine.shear * kRadians);
  // scale · rotation · shear; y points down, so a counter-clockwise turn has +sine above.
  const double a = affine.scale * cosine, b = affine.scale * (cosine * shear + sine);
  const double c = -affine.scale * sine, d = affine.scale * (cosine - sine * shear);
  const double x = (width - 1) / 2.0, y = (height - 1) / 2.0;
  return {a, b, x - a * x - b * y + double{affine.translate_x} * width,
          c, d, y - c * x - d * y + double{affine.translate_y} * height};
}

}  // namespace

// ---- edits

void flip_horizontal(Image& image) {
  if (image.channels == 1) {
    for (int y = 0; y < image.height; ++y) std::reverse(image.row(y), image.row(y) + image.width);
    return;
  }
  // Pixels are copied as words of four bytes; the next pixel overwrites the fourth.
  const size_t bytes = size_t(image.width) * 3;
  std::vector<uint8_t> row(bytes + 1), reversed(bytes + 1);
  for (int y = 0; y < image.height; ++y) {
    std::memcpy(row.data(), image.row(y), bytes);
    const uint8_t* from = row.data() + bytes;
    for (uint8_t *to = reversed.data(), *end = to + bytes; to != end; to += 3)
      std::memcpy(to, from -= 3, 4);
    std::memcpy(image.row(y), reversed.data(), bytes);
  }
}

void flip_vertical(Image& image) {
  const size_t bytes = size_t(image.width) * size_t(image.channels);
  for (int top = 0, bottom = image.height - 1; top < bottom; ++top, --bottom)
    std::swap_ranges(image.row(top), image.row(top) + bytes, image.row(bottom));
}

void warp(Image& image, const Affine& affine) {
  Image out(image.width, image.height, image.channels);
  cv::warpAffine(as_mat(image), as_mat(out), matrix(affine, image.width, image.height),
                 {image.width, image.height}, cv::INTER_LINEAR, cv::BORDER_CONSTANT);
  image = std::move(out);
}

void fill(Image& image, const CropWindow& window, const std::array<uint8_t, 3>& color) {
  const int first = std::max(0, window.left);
  const int last = std::min(image.width, window.left + window.width);
  const int bottom = std::min(image.height, window.top + window.height);
  for (int y = std::max(0, window.top); y < bottom; ++y)
    for (int x = first; x < last; ++x)
      std::copy_n(color.data(), image.channels, image.row(y) + size_t(x) * size_t(image.channels));
}

void blur(Image& image, int kernel, float sigma) {
  Image out(image.width, image.height, image.channels);
  cv::GaussianBlur(as_mat(image), as_mat(out), {kernel, kernel}, sigma, sigma,
                   cv::BORDER_REFLECT_101);
  image = std::move(out);
}

// ---- stages

Stage crop_and_resize(const AugmentConfig& config, const Preprocess& preprocess) {
  return [=](Image& image, Rng& rng) {
    const Resampling resampling =
        sample_crop_and_resize(config, preprocess, image.width, image.height, rng);
    image = resample(view_of(image), 0, 0, resampling, preprocess.interpolation);
  };
}

Stage random_horizontal_flip(float probability) {
  return [=](Image& image, Rng& rng) {
    if (rng.chance(probability)) flip_horizontal(image);
  };
}

Stage random_vertical_flip(float probability) {
  return [=](Image& image, Rng& rng) {
    if (rng.chance(probability)) flip_vertical(image);
  };
}

Stage random_affine(const AffineRanges& ranges) {
  return [ranges](Image& image, Rng& rng) {
    Affine affine;
    affine.angle = sample_in(rng, ranges.angle);
    affine.scale = sample_in(rng, ranges.scale);
    affine.shear = sample_in(rng, ranges.shear);
    affine.translate_x = sample_in(rng, ranges.translate);
    affine.translate_y = sample_in(rng, ranges.translate);
    warp(image, affine);
  };
}

Stage color_jitter(const Jitter& jitter) {
  return [jitter](Image& image, Rng& rng) {
    constexpr void (*kEdits[])(Image&, float) = {adjust_brightness, adjust_contrast,
                                                 adjust_saturation, adjust_hue};
    for (const JitterStep& step : sample_jitter(jitter, rng))
      if (step.used) kEdits[step.kind](image, step.value);
  };
}

Stage random_gaussian_blur(const Blur& blurring) {
  return [blurring](Image& image, Rng& rng) {
    if (rng.chance(blurring.probability))
      blur(image, blurring.kernel, sample_in(rng, blurring.sigma));
  };
}

Stage random_erasing(const Erasing& erasing, const std::array<uint8_t, 3>& color) {
  return [=](Image& image, Rng& rng) {
    if (!rng.chance(erasing.probability)) return;
    const double pixels = static_cast<double>(image.width) * image.height;
    for (int attempt = 0; attempt < 10; ++attempt) {
      const double target = pixels * sample_in(rng, erasing.area);
      const double shape = sample_ratio(rng, erasing.ratio);
      const int height = static_cast<int>(std::nearbyint(std::sqrt(target * shape)));
      const int width = static_cast<int>(std::nearbyint(std::sqrt(target / shape)));
      if (height >= image.height || width >= image.width) continue;
      const int top = sample_below(rng, image.height - height + 1);
      const int left = sample_below(rng, image.width - width + 1);
      return fill(image, {left, top, width, height}, color);
    }
  };
}

// ---- random numbers that devices share

CropWindow sample_crop(const AugmentConfig& config, int width, int height, int size, Rng& rng) {
  switch (config.crop) {
    case CropKind::center:
      return {center_crop_corner(width, size), center_crop_corner(height, size), size, size};
    case CropKind::random: {
      const int top = sample_corner(height, size, config.crop_padding, rng);
      const int left = sample_corner(width, size, config.crop_padding, rng);
      return {left, top, size, size};
    }
    case CropKind::resized:
      return sample_resized_window(width, height, rng, config.crop_area, config.crop_ratio);
  }
  fail(Failure::internal, "crop {}", static_cast<int>(config.crop));
}

Resampling sample_crop_and_resize(const AugmentConfig& config, const Preprocess& p, int width,
                                  int height, Rng& rng) {
  if (config.crop == CropKind::resized)
    return {
        sample_crop(config, width, height, p.crop, rng), p.crop, p.crop, {0, 0, p.crop, p.crop}};
  const Size to = resized_size(width, height, p);
  return {{0, 0, width, height},
          to.width,
          to.height,
          sample_crop(config, to.width, to.height, p.crop, rng)};
}

std::array<JitterStep, 4> sample_jitter(const Jitter& jitter, Rng& rng) {
  const auto around_one = [](float width) { return Interval{std::max(0.f, 1 - width), 1 + width}; };
  const Interval ranges[] = {around_one(jitter.brightness),
                             around_one(jitter.contrast),
                             around_one(jitter.saturation),
                             {-jitter.hue, jitter.hue}};
  std::array<JitterStep, 4> steps{};
  for (size_t i = 0; i < 4; ++i) steps[i].kind = static_cast<JitterStep::Kind>(i);
  for (int i = 3; i > 0; --i) std::swap(steps[size_t(i)], steps[size_t(sample_below(rng, i + 1))]);
  for (JitterStep& step : steps) {
    const Interval range = ranges[step.kind];
    step.value = sample_in(rng, range);
    step.used = range.low != range.high;
  }
  return steps;
}

// ---- recipes

constexpr std::pair<Augment, std::string_view> kNames[] = {{Augment::none, "none"},
                                                           {Augment::light, "light"},
                                                           {Augment::standard, "standard"},
                                                           {Augment::strong, "strong"}};

Augment parse_augment(std::string_view text) {
  for (const auto& [augment, name] : kNames)
    if (name == text) return augment;
  fail(Failure::usage, "augmentation {}: none, light, standard or strong", text);
}

std::string_view to_string(Augment augment) {
  return kNames[static_cast<size_t>(augment)].second;
}

AugmentConfig preset(Augment augment) {
  switch (augment) {
    case Augment::none: return {};
    case Augment::light: return {.crop = CropKind::random, .horizontal_flip = 0.5f};
    case Augment::standard: return {.crop = CropKind::resized, .horizontal_flip = 0.5f};
    case Augment::strong:
      return {.crop = CropKind::resized,
              .crop_area = {0.3f, 1.f},
              .horizontal_flip = 0.5f,
              .vertical_flip = 0.5f,
              .affine = {.angle = {-20, 20},
                         .scale = {0.9f, 1.1f},
                         .shear = {-8, 8},
                         .translate = {-0.05f, 0.05f}},
              .jitter = {.brightness = 0.3f, .contrast = 0.3f, .saturation = 0.3f, .hue = 0.05f},
              .blur = {.probability = 0.2f}};
  }
  fail(Failure::internal, "augmentation {}", static_cast<int>(augment));
}

void check(const AugmentConfig& c) {
  const auto within = [](std::string_view what, auto value, double least, double most) {
    require(value >= least && value <= most, Failure::usage, "{} {}: allowed is {} to {}", what,
            value, least, most);
  };
  const auto interval = [&](std::string_view what, Interval range, double least, double most) {
    within(what, range.low, least, most);
    within(what, range.high, range.low, most);
  };
  within("crop padding", c.crop_padding, 0, 16384);
  interval("crop area", c.crop_area, 1e-6, 1);
  interval("crop ratio", c.crop_ratio, 1e-3, 1e3);
  within("horizontal flip", c.horizontal_flip, 0, 1);
  within("vertical flip", c.vertical_flip, 0, 1);
  interval("angle", c.affine.angle, -360, 360);
  interval("scale", c.affine.scale, 1e-3, 1e3);
  interval("shear", c.affine.shear, -89, 89);
  interval("translation", c.affine.translate, -1, 1);
  within("RandAugment operations", c.rand_augment.operations, 0, 100);
  within("RandAugment bins", c.rand_augment.bins, 2, 1000);
  within("RandAugment magnitude", c.rand_augment.magnitude, 0, c.rand_augment.bins - 1);
  within("brightness", c.jitter.brightness, 0, 100);
  within("contrast", c.jitter.contrast, 0, 100);
  within("saturation", c.jitter.saturation, 0, 100);
  within("hue", c.jitter.hue, 0, 0.5);
  within("blur", c.blur.probability, 0, 1);
  within("blur kernel", c.blur.kernel, 1, 255);
  require(c.blur.kernel % 2 == 1, Failure::usage, "blur kernel {} must be odd", c.blur.kernel);
  interval("blur sigma", c.blur.sigma, 1e-3, 100);
  within("erasing", c.erasing.probability, 0, 1);
  interval("erased area", c.erasing.area, 0, 1);
  interval("ratio of the erased area", c.erasing.ratio, 1e-3, 1e3);
  within("mixup", c.mixing.mixup, 0, 1000);
  within("cutmix", c.mixing.cutmix, 0, 1000);
  within("probability of mixing", c.mixing.probability, 0, 1);
  within("probability of cutmix", c.mixing.switch_probability, 0, 1);
}

std::string describe(const AugmentConfig& c) {
  std::string text;
  const auto add = [&]<class... T>(fmt::format_string<T...> format, T&&... values) {
    if (!text.empty()) text += ", ";
    text += fmt::format(format, std::forward<T>(values)...);
  };
  switch (c.crop) {
    case CropKind::center: add("centre crop"); break;
    case CropKind::random: add("random crop"); break;
    case CropKind::resized:
      add("random resized crop area {}..{} ratio {:.3g}..{:.3g}", c.crop_area.low, c.crop_area.high,
          c.crop_ratio.low, c.crop_ratio.high);
      break;
  }
  if (c.crop == CropKind::random && c.crop_padding > 0) add("padding {}", c.crop_padding);
  if (c.horizontal_flip > 0) add("horizontal flip {}", c.horizontal_flip);
  if (c.vertical_flip > 0) add("vertical flip {}", c.vertical_flip);
  if (c.affine != AffineRanges{})
    add("affine angle {}..{} scale {}..{} shear {}..{} translate {}..{}", c.affine.angle.low,
        c.affine.angle.high, c.affine.scale.low, c.affine.scale.high, c.affine.shear.low,
        c.affine.shear.high, c.affine.translate.low, c.affine.translate.high);
  if (c.rand_augment.operations > 0)
    add("RandAugment {} operations magnitude {} of {}", c.rand_augment.operations,
        c.rand_augment.magnitude, c.rand_augment.bins);
  if (c.jitter != Jitter{})
    add("jitter brightness {} contrast {} saturation {} hue {}", c.jitter.brightness,
        c.jitter.contrast, c.jitter.saturation, c.jitter.hue);
  if (c.blur.probability > 0)
    add("blur {} kernel {} sigma {}..{}", c.blur.probability, c.blur.kernel, c.blur.sigma.low,
        c.blur.sigma.high);
  if (c.erasing.probability > 0)
    add("erasing {} area {}..{} ratio {}..{}", c.erasing.probability, c.erasing.area.low,
        c.erasing.area.high, c.erasing.ratio.low, c.erasing.ratio.high);
  if (c.mixing.mixup > 0) add("mixup {}", c.mixing.mixup);
  if (c.mixing.cutmix > 0) add("cutmix {}", c.mixing.cutmix);
  if (c.mixing.used() && c.mixing.probability < 1) add("mixed {}", c.mixing.probability);
  return text;
}

std::vector<Stage> train_stages(const AugmentConfig& config, const Preprocess& preprocess) {
  std::vector<Stage> stages = edit_stages(config, preprocess);
  stages.insert(stages.begin(), crop_and_resize(config, preprocess));
  return stages;
}

std::vector<Stage> edit_stages(const AugmentConfig& config, const Preprocess& preprocess) {
  check(config);
  std::vector<Stage> stages;
  if (config.horizontal_flip > 0) stages.push_back(random_horizontal_flip(config.horizontal_flip));
  if (config.vertical_flip > 0) stages.push_back(random_vertical_flip(config.vertical_flip));
  if (config.affine != AffineRanges{}) stages.push_back(random_affine(config.affine));
  if (config.rand_augment.operations > 0) stages.push_back(random_operations(config.rand_augment));
  if (config.jitter != Jitter{}) stages.push_back(color_jitter(config.jitter));
  if (config.blur.probability > 0) stages.push_back(random_gaussian_blur(config.blur));
  if (config.erasing.probability > 0) {
    std::array<uint8_t, 3> mean{};
    for (size_t c = 0; c < 3; ++c)
      mean[c] = static_cast<uint8_t>(std::clamp(std::lround(preprocess.mean[c] * 255), 0L, 255L));
    stages.push_back(random_erasing(config.erasing, mean));
  }
  return stages;
}

}  // namespace engine
