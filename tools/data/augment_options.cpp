#include "tools/data/augment_options.h"

#include <charconv>
#include <cmath>
#include <vector>

#include "engine/error.h"

namespace engine {
namespace {

// Exactly that many numbers, with commas between them.
std::vector<float> numbers(std::string_view flag, std::string_view text, size_t count) {
  std::vector<float> found;
  const char *at = text.data(), *end = at + text.size();
  for (;;) {
    float value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || !std::isfinite(value)) break;
    found.push_back(value);
    if (next == end && found.size() == count) return found;
    if (next == end || *next != ',') break;
    at = next + 1;
  }
  fail(Failure::usage, "{} '{}': {} numbers with commas between them", flag, text, count);
}

Interval interval(std::string_view flag, std::string_view text) {
  const auto v = numbers(flag, text, 2);
  require(v[0] <= v[1], Failure::usage, "{} '{}': the first number is the smaller one", flag, text);
  return {v[0], v[1]};
}

}  // namespace

AugmentConfig augment_config(const AugmentOptions& o) {
  AugmentConfig c = preset(o.augment);
  const auto set = [](auto& number, const auto& flag) {
    if (flag) number = *flag;
  };
  const auto set_interval = [](Interval& range, std::string_view flag, const auto& text) {
    if (text) range = interval(flag, *text);
  };
  const auto set_around_zero = [](Interval& range, const std::optional<float>& most) {
    if (most) range = {-*most, *most};
  };
  set(c.crop, o.train_crop);
  set(c.crop_padding, o.crop_padding);
  set_interval(c.crop_area, "--crop-area", o.crop_area);
  set_interval(c.crop_ratio, "--crop-ratio", o.crop_ratio);
  set(c.horizontal_flip, o.hflip);
  set(c.vertical_flip, o.vflip);
  set_around_zero(c.affine.angle, o.rotation);
  set_interval(c.affine.scale, "--scale", o.scale);
  set_around_zero(c.affine.shear, o.shear);
  set_around_zero(c.affine.translate, o.translate);
  if (o.jitter) {
    const auto v = numbers("--jitter", *o.jitter, 4);
    c.jitter = {v[0], v[1], v[2], v[3]};
  }
  set(c.blur.probability, o.blur);
  set(c.blur.kernel, o.blur_kernel);
  set_interval(c.blur.sigma, "--blur-sigma", o.blur_sigma);
  set(c.erasing.probability, o.erasing);
  set_interval(c.erasing.area, "--erasing-area", o.erasing_area);
  set_interval(c.erasing.ratio, "--erasing-ratio", o.erasing_ratio);
  if (o.randaugment) {
    const auto v = numbers("--randaugment", *o.randaugment, 2);
    require(v[0] == std::floor(v[0]) && v[1] == std::floor(v[1]), Failure::usage,
            "--randaugment '{}': whole numbers", *o.randaugment);
    c.rand_augment.operations = static_cast<int>(v[0]);
    c.rand_augment.magnitude = static_cast<int>(v[1]);
  }
  set(c.mixing.mixup, o.mixup);
  set(c.mixing.cutmix, o.cutmix);
  set(c.mixing.probability, o.mix_probability);
  set(c.mixing.switch_probability, o.mix_switch);
  check(c);
  return c;
}

std::string keep_upright(AugmentConfig& config, const AugmentOptions& options,
                         std::string_view model, const Dataset& train) {
  std::vector<std::string> digits;
  for (int i = 0; i < 10; ++i) digits.push_back(std::to_string(i));
  const bool written = model == "mnist_cnn" || !train.images.empty() || train.classes == digits;
  if (!written) return {};
  const bool horizontal = config.horizontal_flip > 0 && !options.hflip;
  const bool vertical = config.vertical_flip > 0 && !options.vflip;
  if (!horizontal && !vertical) return {};
  if (horizontal) config.horizontal_flip = 0;
  if (vertical) config.vertical_flip = 0;
  return "images of digits are not flipped; --hflip and --vflip flip them";
}

}  // namespace engine
