#include "io/augment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "engine/error.h"

namespace engine {
namespace {

// The image's pixels as OpenCV sees them.
cv::Mat view(Image& image) {
  [[maybe_unused]] static const bool single_threaded = (cv::setNumThreads(0), true);
  return {image.height, image.width, CV_8UC(image.channels), image.pixels.data()};
}

float draw(Rng& rng, Interval range) {
  return rng.uniform(range.low, range.high);
}

int draw_below(Rng& rng, int n) {
  return static_cast<int>(rng.below(static_cast<uint32_t>(n)));
}

struct Window {
  int left, top, width, height;
};

Window draw_window(const Image& image, Rng& rng, Interval area, Interval ratio) {
  const double pixels = static_cast<double>(image.width) * image.height;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = pixels * draw(rng, area);
    const double shape = std::exp(draw(rng, {std::log(ratio.low), std::log(ratio.high)}));
    const int width = static_cast<int>(std::nearbyint(std::sqrt(target * shape)));
    const int height = static_cast<int>(std::nearbyint(std::sqrt(target / shape)));
    if (width < 1 || width > image.width || height < 1 || height > image.height) continue;
    const int top = draw_below(rng, image.height - height + 1);
    const int left = draw_below(rng, image.width - width + 1);
    return {left, top, width, height};
  }
  const double shape = static_cast<double>(image.width) / image.height;
  int width = image.width, height = image.height;
  if (shape < ratio.low) height = static_cast<int>(std::nearbyint(width / ratio.low));
  if (shape > ratio.high) width = static_cast<int>(std::nearbyint(height * ratio.high));
  return {(image.width - width) / 2, (image.height - height) / 2, width, height};
}

// Where in an image of that size the warp puts each point: output = matrix · (x, y, 1).
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
  const int channels = image.channels;
  for (int y = 0; y < image.height; ++y) {
    uint8_t* left = image.row(y);
    uint8_t* right = left + size_t(image.width - 1) * size_t(channels);
    for (; left < right; left += channels, right -= channels)
      std::swap_ranges(left, left + channels, right);
  }
}

void flip_vertical(Image& image) {
  const size_t bytes = size_t(image.width) * size_t(image.channels);
  for (int top = 0, bottom = image.height - 1; top < bottom; ++top, --bottom)
    std::swap_ranges(image.row(top), image.row(top) + bytes, image.row(bottom));
}

void warp(Image& image, const Affine& affine) {
  Image out(image.width, image.height, image.channels);
  cv::warpAffine(view(image), view(out), matrix(affine, image.width, image.height),
                 {image.width, image.height}, cv::INTER_LINEAR, cv::BORDER_CONSTANT);
  image = std::move(out);
}

void blur(Image& image, int kernel, float sigma) {
  Image out(image.width, image.height, image.channels);
  cv::GaussianBlur(view(image), view(out), {kernel, kernel}, sigma, sigma, cv::BORDER_REFLECT_101);
  image = std::move(out);
}

// ---- stages

Stage resize_to(const Preprocess& preprocess) {
  return [preprocess](Image& image, Rng&) { image = resize(image, preprocess); };
}

Stage crop_center(int size) {
  return [size](Image& image, Rng&) { image = center_crop(image, size); };
}

Stage random_crop(int size) {
  const auto corner = [size](int side, Rng& rng) {
    return side >= size ? draw_below(rng, side - size + 1) : -((size - side) / 2);
  };
  return [=](Image& image, Rng& rng) {
    const int top = corner(image.height, rng), left = corner(image.width, rng);
    image = crop(image, left, top, size, size);
  };
}

Stage random_resized_crop(int size, Interpolation interpolation, Interval area, Interval ratio) {
  return [=](Image& image, Rng& rng) {
    const Window w = draw_window(image, rng, area, ratio);
    image = resize(crop(image, w.left, w.top, w.width, w.height), size, size, interpolation);
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

Stage random_rotation(float degrees) {
  return random_affine({.angle = {-degrees, degrees}});
}

Stage random_affine(const AffineRanges& ranges) {
  return [ranges](Image& image, Rng& rng) {
    Affine affine;
    affine.angle = draw(rng, ranges.angle);
    affine.scale = draw(rng, ranges.scale);
    affine.shear = draw(rng, ranges.shear);
    affine.translate_x = draw(rng, ranges.translate);
    affine.translate_y = draw(rng, ranges.translate);
    warp(image, affine);
  };
}

Stage color_jitter(const Jitter& jitter) {
  const auto around_one = [](float width) { return Interval{std::max(0.f, 1 - width), 1 + width}; };
  using Edit = void (*)(Image&, float);
  const std::array<std::pair<Edit, Interval>, 4> edits{{
      {adjust_brightness, around_one(jitter.brightness)},
      {adjust_contrast, around_one(jitter.contrast)},
      {adjust_saturation, around_one(jitter.saturation)},
      {adjust_hue, {-jitter.hue, jitter.hue}},
  }};
  return [edits](Image& image, Rng& rng) {
    auto order = edits;
    for (int i = 3; i > 0; --i) std::swap(order[size_t(i)], order[size_t(draw_below(rng, i + 1))]);
    for (const auto& [edit, range] : order) {
      const float value = draw(rng, range);
      if (range.low != range.high) edit(image, value);
    }
  };
}

Stage random_gaussian_blur(int kernel, Interval sigma, float probability) {
  return [=](Image& image, Rng& rng) {
    if (rng.chance(probability)) blur(image, kernel, draw(rng, sigma));
  };
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

std::vector<Stage> train_stages(Augment augment, const Preprocess& preprocess) {
  const int size = preprocess.crop;
  const Interpolation interpolation = preprocess.interpolation;
  switch (augment) {
    case Augment::none: return {resize_to(preprocess), crop_center(size)};
    case Augment::light:
      return {resize_to(preprocess), random_crop(size), random_horizontal_flip()};
    case Augment::standard:
      return {random_resized_crop(size, interpolation), random_horizontal_flip()};
    case Augment::strong:
      return {
          random_resized_crop(size, interpolation, {0.3f, 1.f}),
          random_horizontal_flip(),
          random_vertical_flip(),
          random_affine({.angle = {-20, 20},
                         .scale = {0.9f, 1.1f},
                         .shear = {-8, 8},
                         .translate = {-0.05f, 0.05f}}),
          color_jitter({.brightness = 0.3f, .contrast = 0.3f, .saturation = 0.3f, .hue = 0.05f}),
          random_gaussian_blur(5, {0.1f, 1.5f}, 0.2f)};
  }
  fail(Failure::internal, "augmentation {}", static_cast<int>(augment));
}

}  // namespace engine
