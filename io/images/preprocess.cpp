#include "io/images/preprocess.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/json.h"

namespace engine {
namespace {

constexpr int kMaxSide = 16384;

struct Default {
  std::string_view model;
  int resize, crop;
  Interpolation interpolation;
};

constexpr Default kDefaults[] = {
    {"efficientnet_b0", 256, 224, Interpolation::bicubic},
    {"efficientnet_b1", 256, 240, Interpolation::bicubic},
    {"efficientnet_b2", 288, 288, Interpolation::bicubic},
    {"efficientnet_b3", 320, 300, Interpolation::bicubic},
    {"efficientnet_b4", 384, 380, Interpolation::bicubic},
    {"efficientnet_b5", 456, 456, Interpolation::bicubic},
    {"efficientnet_b6", 528, 528, Interpolation::bicubic},
    {"efficientnet_b7", 600, 600, Interpolation::bicubic},
    {"efficientnet_v2_s", 384, 384, Interpolation::bilinear},
    {"efficientnet_v2_m", 480, 480, Interpolation::bilinear},
    {"densenet121", 256, 224, Interpolation::bilinear},
    {"densenet161", 256, 224, Interpolation::bilinear},
    {"densenet169", 256, 224, Interpolation::bilinear},
    {"densenet201", 256, 224, Interpolation::bilinear},
    {"resnet18", 256, 224, Interpolation::bilinear},
    {"resnet34", 256, 224, Interpolation::bilinear},
    {"resnet50", 256, 224, Interpolation::bilinear},
    {"resnet101", 256, 224, Interpolation::bilinear},
    {"resnet152", 256, 224, Interpolation::bilinear},
    {"mobilenet_v2", 256, 224, Interpolation::bilinear},
};

int parse_side(std::string_view flag, std::string_view whole, std::string_view text) {
  int side = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), side);
  require(error == std::errc() && end == text.data() + text.size() && side >= 1 && side <= kMaxSide,
          Failure::usage, "{} {}: a side is 1 to {} pixels", flag, whole, kMaxSide);
  return side;
}

// `none` is the value that changes nothing.
std::array<float, 3> parse_statistics(std::string_view flag, std::string_view text, float none) {
  if (text == "none") return {none, none, none};
  std::array<float, 3> values{};
  size_t count = 0;
  const char *at = text.data(), *const end = at + text.size();
  for (bool more = true; more; ++count) {
    const char* const begin = at;
    bool good = count < values.size();
    if (good) {
      const auto [next, error] = std::from_chars(begin, end, values[count]);
      good = error == std::errc() && std::isfinite(values[count]) && (next == end || *next == ',');
      more = next != end;
      at = next + 1;
    }
    require(good, Failure::usage, "{} '{}': none, or 1 or 3 numbers with commas between them", flag,
            text);
  }
  require(count != 2, Failure::usage, "{} '{}': 2 numbers for 1 or 3 channels", flag, text);
  if (count == 1) values[2] = values[1] = values[0];
  return values;
}

void check(const Preprocess& p) {
  const auto side = [](int value, int lowest) { return value >= lowest && value <= kMaxSide; };
  require(side(p.resize_height, 1) && side(p.resize_width, 0) && side(p.crop, 1), Failure::weights,
          "preprocessing metadata: resize {}x{}, crop {}", p.resize_height, p.resize_width, p.crop);
  require(p.channels == 1 || p.channels == 3, Failure::weights,
          "preprocessing metadata: {} channels", p.channels);
  for (const float std : p.std)
    require(std > 0 && std::isfinite(std), Failure::weights, "preprocessing metadata: std {}", std);
  for (const float mean : p.mean)
    require(std::isfinite(mean), Failure::weights, "preprocessing metadata: mean {}", mean);
}

int whole_number(const nlohmann::json& object, const char* name) {
  return engine::whole_number<int>(object.at(name), Failure::weights, name);
}

}  // namespace

Preprocess default_preprocess(std::string_view model) {
  for (const Default& d : kDefaults)
    if (d.model == model)
      return {.resize_height = d.resize, .interpolation = d.interpolation, .crop = d.crop};
  require(model == "mnist_cnn", Failure::usage, "'{}' is no model: none has its preprocessing",
          model);
  return {.resize_height = 28,
          .crop = 28,
          .mean = {0.1307f, 0.1307f, 0.1307f},
          .std = {0.3081f, 0.3081f, 0.3081f},
          .channels = 1};
}

Preprocess with_crop(const Preprocess& preprocess, int crop) {
  Preprocess scaled = preprocess;
  const double scale = double(crop) / preprocess.crop;
  scaled.resize_height = static_cast<int>(std::lround(preprocess.resize_height * scale));
  scaled.resize_width = static_cast<int>(std::lround(preprocess.resize_width * scale));
  scaled.crop = crop;
  return scaled;
}

void set_resize(Preprocess& preprocess, std::string_view text, std::string_view flag) {
  const size_t x = text.find('x');
  const int height = parse_side(flag, text, text.substr(0, x));
  const int width = x == std::string_view::npos ? 0 : parse_side(flag, text, text.substr(x + 1));
  preprocess.resize_height = height;
  preprocess.resize_width = width;
}

void set_crop(Preprocess& preprocess, std::string_view text) {
  preprocess.crop = parse_side("--crop", text, text);
}

void set_mean(Preprocess& preprocess, std::string_view text) {
  preprocess.mean = parse_statistics("--mean", text, 0);
}

void set_std(Preprocess& preprocess, std::string_view text) {
  preprocess.std = parse_statistics("--std", text, 1);
  for (const float std : preprocess.std)
    require(std > 0, Failure::usage, "--std {}: values are above 0", text);
}

std::string format_resize(const Preprocess& p) {
  return p.resize_width == 0 ? fmt::format("{}", p.resize_height)
                             : fmt::format("{}x{}", p.resize_height, p.resize_width);
}

std::string describe(const Preprocess& p) {
  const auto values = [&](const std::array<float, 3>& v) {
    return p.channels == 1 ? fmt::format("{}", v[0]) : fmt::format("{} {} {}", v[0], v[1], v[2]);
  };
  return fmt::format("resize {} {}, crop {}, mean {}, std {}", format_resize(p),
                     to_string(p.interpolation), p.crop, values(p.mean), values(p.std));
}

std::string to_json(const Preprocess& p) {
  return print_json(nlohmann::json{{"resize", format_resize(p)},
                                   {"interpolation", to_string(p.interpolation)},
                                   {"crop", p.crop},
                                   {"mean", p.mean},
                                   {"std", p.std},
                                   {"channels", p.channels}});
}

Preprocess preprocess_from_json(std::string_view json) {
  Preprocess p;
  constexpr char what[] = "preprocessing metadata";
  const auto object = parse_json<nlohmann::json>(json, Failure::weights, what);
  try {
    set_resize(p, object.at("resize").get<std::string>());
    p.interpolation = parse_interpolation(object.at("interpolation").get<std::string>());
    p.crop = whole_number(object, "crop");
    p.mean = object.at("mean").get<std::array<float, 3>>();
    p.std = object.at("std").get<std::array<float, 3>>();
    p.channels = whole_number(object, "channels");
  } catch (const std::exception& error) {
    fail(Failure::weights, "{}: {}", what, error.what());
  }
  check(p);
  return p;
}

Image crop(const Image& image, int left, int top, int width, int height) {
  Image out(width, height, image.channels);
  const int first = std::max(0, left), last = std::min(image.width, left + width);
  if (first >= last) return out;
  const size_t bytes = size_t(last - first) * size_t(image.channels);
  for (int y = std::max(0, -top); y < std::min(height, image.height - top); ++y)
    std::memcpy(out.row(y) + size_t(first - left) * size_t(image.channels),
                image.row(top + y) + size_t(first) * size_t(image.channels), bytes);
  return out;
}

int center_crop_corner(int side, int size) {
  // A crop rounds as Python's round(difference / 2) does; padding puts the odd row below and right.
  return side >= size ? static_cast<int>(std::nearbyint((side - size) / 2.0))
                      : -((size - side) / 2);
}

Image center_crop(const Image& image, int size) {
  return crop(image, center_crop_corner(image.width, size), center_crop_corner(image.height, size),
              size, size);
}

Size resized_size(int width, int height, const Preprocess& p) {
  return p.resize_width == 0 ? shorter_side_to(p.resize_height, width, height)
                             : Size{p.resize_width, p.resize_height};
}

Image resize(const Image& image, const Preprocess& p) {
  const Size to = resized_size(image.width, image.height, p);
  return resize(image, to.width, to.height, p.interpolation);
}

Image evaluate_transform(const Image& image, const Preprocess& p) {
  const Size to = resized_size(image.width, image.height, p);
  const CropWindow window{center_crop_corner(to.width, p.crop),
                          center_crop_corner(to.height, p.crop), p.crop, p.crop};
  return resample(view_of(image), 0, 0,
                  {{0, 0, image.width, image.height}, to.width, to.height, window},
                  p.interpolation);
}

}  // namespace engine
