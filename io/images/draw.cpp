#include "io/images/draw.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/images/encode.h"
#include "io/images/opencv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// A closed line, in the unit of the shape, which fills about [-1, 1]².
using Outline = std::vector<cv::Point2f>;

// A shape is drawn part after part; a hole takes away what lies under it.
struct Part {
  Outline outline;
  bool hole = false;
};

// x' = scale · rotation · slant · x, about the middle of the picture and shifted from there.
struct Placement {
  float scale_x = 1, scale_y = 1, angle = 0, slant = 0;  // radians; slant is the shear's tangent
  cv::Point2f centre{};

  cv::Point2f operator()(cv::Point2f p) const {
    const float x = scale_x * (p.x + slant * p.y), y = scale_y * p.y;
    const float c = std::cos(angle), s = std::sin(angle);
    return centre + cv::Point2f(c * x - s * y, s * x + c * y);
  }
};

void add_noise(cv::Mat& picture, Rng& rng, float deviation) {
  for (int y = 0; y < picture.rows; ++y) {
    uint8_t* row = picture.ptr(y);
    for (int i = 0; i < picture.cols * picture.channels(); ++i)
      row[i] = cv::saturate_cast<uint8_t>(static_cast<float>(row[i]) + deviation * rng.normal());
  }
}

void blur(cv::Mat& picture, float deviation) {
  if (deviation > 0.2f) cv::GaussianBlur(picture, picture, {}, deviation);
}

// ---- digits

constexpr int kDigitSize = 28;

// Draws the digit four times larger, so that slant and rotation come before the pixels get coarse.
cv::Mat print_digit(Rng& rng, int digit) {
  constexpr int kLarge = 4 * kDigitSize;
  constexpr std::array<int, 7> kFonts = {
      cv::FONT_HERSHEY_SIMPLEX,       cv::FONT_HERSHEY_PLAIN,   cv::FONT_HERSHEY_DUPLEX,
      cv::FONT_HERSHEY_COMPLEX,       cv::FONT_HERSHEY_TRIPLEX, cv::FONT_HERSHEY_SCRIPT_SIMPLEX,
      cv::FONT_HERSHEY_SCRIPT_COMPLEX};
  const int font = kFonts[rng.below(kFonts.size())];
  const int stroke = 3 + static_cast<int>(rng.below(10));
  const std::string text = std::to_string(digit);
  int baseline = 0;
  const double scale =
      64.0 / cv::getTextSize(text, font, 1, 1, &baseline).height;  // 64 pixels high
  const cv::Size extent = cv::getTextSize(text, font, scale, stroke, &baseline);
  cv::Mat picture = cv::Mat::zeros(kLarge, kLarge, CV_8UC1);
  cv::putText(picture, text, {(kLarge - extent.width) / 2, (kLarge + extent.height) / 2}, font,
              scale, rng.uniform(150, 255), stroke, cv::LINE_AA);
  return picture;
}

// The affine map that takes the middle of the large picture to the placement's centre.
cv::Matx23f affine(const Placement& place, cv::Point2f middle) {
  const cv::Point2f origin = place(-middle), x = place(cv::Point2f(1, 0) - middle) - origin,
                    y = place(cv::Point2f(0, 1) - middle) - origin;
  return {x.x, y.x, origin.x, x.y, y.y, origin.y};
}

// ---- objects

Outline circle(float radius, cv::Point2f centre = {}) {
  constexpr int kCorners = 48;
  Outline outline;
  for (int i = 0; i < kCorners; ++i) {
    const float angle = 2 * std::numbers::pi_v<float> * static_cast<float>(i) / kCorners;
    outline.push_back(centre + radius * cv::Point2f(std::cos(angle), std::sin(angle)));
  }
  return outline;
}

Outline box(float left, float top, float right, float bottom) {
  return {{left, top}, {right, top}, {right, bottom}, {left, bottom}};
}

// `corners` points on the circle of radius 1, and if `inner` is given one at that radius between
// each two of them.
Outline spikes(int corners, float inner = 0) {
  Outline outline;
  const int points = inner > 0 ? 2 * corners : corners;
  for (int i = 0; i < points; ++i) {
    const float angle =
        2 * std::numbers::pi_v<float> * static_cast<float>(i) / static_cast<float>(points);
    const float radius = inner > 0 && i % 2 == 1 ? inner : 1;
    outline.push_back(radius * cv::Point2f(std::sin(angle), -std::cos(angle)));
  }
  return outline;
}

std::vector<Part> stripes() {
  std::vector<Part> parts;
  for (int i = 0; i < 4; ++i) {
    const float top = -0.85f + 0.5f * static_cast<float>(i);
    parts.push_back({box(-0.85f, top, 0.85f, top + 0.25f)});
  }
  return parts;
}

std::vector<Part> checker() {
  std::vector<Part> parts;
  for (int y = 0; y < 4; ++y)
    for (int x = y % 2; x < 4; x += 2) {
      const float left = -0.9f + 0.45f * static_cast<float>(x),
                  top = -0.9f + 0.45f * static_cast<float>(y);
      parts.push_back({box(left, top, left + 0.45f, top + 0.45f)});
    }
  return parts;
}

// The shapes in the order of kObjectClasses.
std::vector<Part> parts_of(int object) {
  switch (object) {
    case 0: return {{box(-0.95f, -0.18f, 0.2f, 0.18f)}, {{{0.1f, -0.65f}, {1, 0}, {0.1f, 0.65f}}}};
    case 1: return checker();
    case 2: return {{circle(0.95f)}, {circle(0.8f, {0.5f, 0}), true}};
    case 3: return {{box(-0.9f, -0.25f, 0.9f, 0.25f)}, {box(-0.25f, -0.9f, 0.25f, 0.9f)}};
    case 4: return {{circle(0.85f)}};
    case 5: return {{circle(0.9f)}, {circle(0.55f), true}};
    case 6: return {{box(-0.75f, -0.75f, 0.75f, 0.75f)}};
    case 7: return {{spikes(5, 0.4f)}};
    case 8: return stripes();
    case 9: return {{spikes(3)}};
  }
  fail(Failure::internal, "object {} of {}", object, kObjectClasses.size());
}

void fill(cv::Mat& picture, const Outline& outline, const Placement& place,
          const cv::Scalar& colour) {
  constexpr int kFraction = 4;  // bits: corners lie at sixteenths of a pixel
  std::vector<cv::Point> corners;
  for (const cv::Point2f& corner : outline) {
    const cv::Point2f at = place(corner) * (1 << kFraction);
    corners.emplace_back(static_cast<int>(std::lround(at.x)), static_cast<int>(std::lround(at.y)));
  }
  cv::fillPoly(picture, std::vector{corners}, colour, cv::LINE_AA, kFraction);
}

using Colour = std::array<float, 3>;

Colour random_colour(Rng& rng) {
  return {rng.uniform(0, 255), rng.uniform(0, 255), rng.uniform(0, 255)};
}

cv::Scalar scalar(const Colour& c) {
  return {c[0], c[1], c[2]};
}

float distance(const Colour& a, const Colour& b) {
  return std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

Placement random_placement(Rng& rng, float size, float low, float high) {
  const float scale = size * rng.uniform(low, high);
  const float margin = std::min(scale, 0.5f * size);  // the object stays in the picture
  return {.scale_x = scale * rng.uniform(0.85f, 1.f),
          .scale_y = scale * rng.uniform(0.85f, 1.f),
          .angle = rng.uniform(0, 2 * std::numbers::pi_v<float>),
          .centre = {rng.uniform(margin, size - margin), rng.uniform(margin, size - margin)}};
}

// Adds small triangles, boxes and lines of any colour.
void add_clutter(cv::Mat& picture, Rng& rng, uint32_t pieces) {
  const float size = static_cast<float>(picture.cols);
  for (uint32_t i = 0; i < pieces; ++i) {
    const Placement place = random_placement(rng, size, 0.03f, 0.08f);
    const cv::Scalar colour = scalar(random_colour(rng));
    switch (rng.below(3)) {
      case 0: fill(picture, spikes(3), place, colour); break;
      case 1: fill(picture, box(-1, -1, 1, 1), place, colour); break;
      case 2: fill(picture, box(-5, -0.2f, 5, 0.2f), place, colour); break;
    }
  }
}

cv::Mat background(Rng& rng, int size, const Colour& one, const Colour& other) {
  const float angle = rng.uniform(0, 2 * std::numbers::pi_v<float>);
  const float dx = std::cos(angle) / static_cast<float>(size),
              dy = std::sin(angle) / static_cast<float>(size);
  cv::Mat picture(size, size, CV_8UC3);
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x) {
      const float t = 0.5f + 0.5f * (dx * static_cast<float>(x - size / 2) +
                                     dy * static_cast<float>(y - size / 2));
      for (int c = 0; c < 3; ++c)
        picture.at<cv::Vec3b>(y, x)[c] =
            cv::saturate_cast<uint8_t>(one[c] + t * (other[c] - one[c]));
    }
  return picture;
}

// picture = picture · (1 − mask) + colour · mask, mask from 0 to 255.
void paint(cv::Mat& picture, const cv::Mat& mask, const Colour& colour) {
  for (int y = 0; y < picture.rows; ++y)
    for (int x = 0; x < picture.cols; ++x) {
      const float m = static_cast<float>(mask.at<uint8_t>(y, x)) / 255;
      cv::Vec3b& pixel = picture.at<cv::Vec3b>(y, x);
      for (int c = 0; c < 3; ++c)
        pixel[c] =
            cv::saturate_cast<uint8_t>(static_cast<float>(pixel[c]) * (1 - m) + colour[c] * m);
    }
}

// ---- scenes

// How often a picture shows each label.
constexpr std::array<float, kSceneLabels.size()> kSceneShares = {0.5f, 0.4f, 0.3f, 0.2f, 0.15f};

void draw_into(cv::Mat& picture, int object, const Placement& place, const Colour& colour) {
  cv::Mat mask = cv::Mat::zeros(picture.size(), CV_8UC1);
  for (const Part& part : parts_of(object))
    fill(mask, part.outline, place, cv::Scalar(part.hole ? 0 : 255));
  paint(picture, mask, colour);
}

int object_named(std::string_view name) {
  return static_cast<int>(std::ranges::find(kObjectClasses, name) - kObjectClasses.begin());
}

// ---- files

void write_sample(const fs::path& stem, DrawnSet set, int label, int size, Rng& rng) {
  if (set == DrawnSet::digits)
    return write_new_file(stem.string() + ".png", encode_png(draw_digit(rng, label)));
  const Image image = draw_object(rng, label, size);
  if (rng.chance(0.25f)) return write_new_file(stem.string() + ".png", encode_png(image));
  const int quality = 60 + static_cast<int>(rng.below(36));
  write_new_file(stem.string() + ".jpg", encode_jpeg(image, quality));
}

}  // namespace

Image draw_digit(Rng& rng, int digit) {
  const cv::Mat large = print_digit(rng, digit);
  const Placement place = {.scale_x = rng.uniform(0.20f, 0.30f),
                           .scale_y = rng.uniform(0.22f, 0.30f),
                           .angle = rng.uniform(-0.25f, 0.25f),
                           .slant = rng.uniform(-0.35f, 0.35f),
                           .centre = {rng.uniform(11, 17), rng.uniform(11, 17)}};
  Image image(kDigitSize, kDigitSize, 1);
  cv::Mat picture = as_mat(image), smooth;
  cv::GaussianBlur(large, smooth, {}, rng.uniform(1.2f, 3.f));  // before a fourfold reduction
  cv::warpAffine(smooth, picture, affine(place, {large.cols / 2.f, large.rows / 2.f}),
                 picture.size());
  add_noise(picture, rng, rng.uniform(2, 25));
  return image;
}

Image draw_object(Rng& rng, int object, int size) {
  const Colour ground = random_colour(rng), far_ground = random_colour(rng);
  Colour colour = random_colour(rng);
  while (distance(colour, ground) < 120 || distance(colour, far_ground) < 120)
    colour = random_colour(rng);

  Image image(size, size, 3);
  cv::Mat picture = as_mat(image);
  background(rng, size, ground, far_ground).copyTo(picture);
  add_clutter(picture, rng, 4 + rng.below(8));
  const Placement place = random_placement(rng, static_cast<float>(size), 0.25f, 0.42f);
  draw_into(picture, object, place, colour);
  add_clutter(picture, rng, rng.below(3));
  blur(picture, rng.uniform(0, 1.2f) * static_cast<float>(size) / 64);
  add_noise(picture, rng, rng.uniform(1, 14));
  return image;
}

Image draw_scene(Rng& rng, const Scene& scene, int size) {
  constexpr int kSide = 3;  // cells of the picture, an object in each at most
  std::array<int, kSide * kSide> cells{};
  std::iota(cells.begin(), cells.end(), 0);
  for (uint32_t left = cells.size(); left > 1; --left)
    std::swap(cells[left - 1], cells[rng.below(left)]);
  const Colour ground = random_colour(rng), far_ground = random_colour(rng);
  Image image(size, size, 3);
  cv::Mat picture = as_mat(image);
  background(rng, size, ground, far_ground).copyTo(picture);
  const float cell = static_cast<float>(size) / kSide;
  size_t used = 0;
  const auto place = [&](std::string_view name) {
    Colour colour = random_colour(rng);
    while (distance(colour, ground) < 120 || distance(colour, far_ground) < 120)
      colour = random_colour(rng);
    const int at = cells[used++];
    const float scale = cell * rng.uniform(0.4f, 0.5f);
    const cv::Point2f corner(cell * static_cast<float>(at % kSide),
                             cell * static_cast<float>(at / kSide));
    draw_into(picture, object_named(name),
              {.scale_x = scale,
               .scale_y = scale * rng.uniform(0.85f, 1.f),
               .angle = rng.uniform(-0.4f, 0.4f),
               .centre = corner + cv::Point2f(cell * rng.uniform(0.45f, 0.55f),
                                              cell * rng.uniform(0.45f, 0.55f))},
              colour);
  };
  for (size_t label = 0; label < scene.size(); ++label)
    if (scene[label]) place(kSceneLabels[label]);
  for (uint32_t others = rng.below(3); others > 0; --others)
    place(rng.chance(0.5f) ? "disk" : "square");
  add_noise(picture, rng, rng.uniform(1, 8));
  return image;
}

namespace {

void draw_scenes(const fs::path& folder, const DrawOptions& options) {
  make_folder(folder / "images");
  std::string csv = "path,split";
  for (const std::string_view name : kSceneLabels) csv += fmt::format(",{}", name);
  csv += '\n';
  for (uint32_t part = 0; part < 2; ++part) {
    const char* const split = part == 0 ? "train" : "val";
    const int count = 10 * (part == 0 ? options.train_per_class : options.validation_per_class);
    for (int i = 0; i < count; ++i) {
      Rng rng({.seed = options.seed,
               .epoch = part,
               .position = static_cast<uint32_t>(i),
               .purpose = purpose("scene")});
      Scene scene{};
      std::string labels;
      for (size_t label = 0; label < scene.size(); ++label) {
        scene[label] = rng.chance(kSceneShares[label]);
        const bool told = !rng.chance(part == 0 ? static_cast<float>(options.missing) : 0.f);
        labels += told ? fmt::format(",{:d}", scene[label]) : ",";
      }
      const std::string name = fmt::format("images/{}_{:05}.png", split, i);
      write_new_file(folder / name, encode_png(draw_scene(rng, scene, options.size)));
      csv += fmt::format("{},{}{}\n", name, split, labels);
    }
  }
  write_file_atomically(folder / "labels.csv", csv);
}

}  // namespace

void draw_dataset(const fs::path& folder, DrawnSet set, const DrawOptions& options) {
  std::error_code error;
  const bool there = fs::exists(folder, error);
  require(!there || fs::is_directory(folder, error), Failure::usage, "{}: not a folder",
          folder.string());
  require(!there || fs::is_empty(folder), Failure::usage, "{}: is not empty", folder.string());
  make_folder(folder);
  if (set == DrawnSet::scenes) return draw_scenes(folder, options);
  const int counts[] = {options.train_per_class, options.validation_per_class};
  for (uint32_t part = 0; part < 2; ++part)
    for (int label = 0; label < 10; ++label) {
      const std::string name =
          set == DrawnSet::digits ? std::to_string(label) : std::string(kObjectClasses[label]);
      const fs::path place = folder / (part == 0 ? "train" : "val") / name;
      make_folder(place);
      for (int i = 0; i < counts[part]; ++i) {
        // Each image has a key of its own, so that more images leave the ones before as they are.
        Rng rng({.seed = options.seed,
                 .epoch = part,
                 .position = static_cast<uint32_t>(10 * i + label),
                 .purpose = purpose("draw")});
        write_sample(place / fmt::format("{:05}", i), set, label, options.size, rng);
      }
    }
}

}  // namespace engine
