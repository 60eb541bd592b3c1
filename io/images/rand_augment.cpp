#include "io/images/rand_augment.h"

#include <array>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>

#include "engine/error.h"
#include "io/images/augment.h"

namespace engine {
namespace {

constexpr double kRadians = std::numbers::pi / 180;

// PIL's order: input x = m[0] · x + m[1] · y + m[2] and input y = m[3] · x + m[4] · y + m[5].
using Matrix = std::array<double, 6>;

// PIL's Image.transform(AFFINE, NEAREST), which computes in 16.16 fixed point.
void transform(Image& image, const Matrix& m) {
  const auto fixed = [](double v) { return static_cast<int32_t>(std::floor(v * 65536.0 + 0.5)); };
  const int32_t a0 = fixed(m[0]), a1 = fixed(m[1]), a3 = fixed(m[3]), a4 = fixed(m[4]);
  int32_t row_x = fixed(m[2] + m[0] * 0.5 + m[1] * 0.5);
  int32_t row_y = fixed(m[5] + m[3] * 0.5 + m[4] * 0.5);
  Image out(image.width, image.height, image.channels);
  const size_t channels = size_t(image.channels);
  for (int y = 0; y < out.height; ++y, row_x += a1, row_y += a4) {
    uint8_t* to = out.row(y);
    int32_t at_x = row_x, at_y = row_y;
    for (int x = 0; x < out.width; ++x, to += channels, at_x += a0, at_y += a3) {
      const int from_x = at_x >> 16, from_y = at_y >> 16;
      if (from_x < 0 || from_x >= image.width || from_y < 0 || from_y >= image.height) continue;
      std::memcpy(to, image.row(from_y) + size_t(from_x) * channels, channels);
    }
  }
  image = std::move(out);
}

// torchvision's _get_inverse_affine_matrix for shears in degrees about the upper left corner, with
// every operation in its order.
void shear(Image& image, double slope_x, double slope_y) {
  const double sx = std::atan(slope_x) / kRadians * kRadians;
  const double sy = std::atan(slope_y) / kRadians * kRadians;
  const double a = std::cos(-sy) / std::cos(sy);
  const double b = -std::cos(-sy) * std::tan(sx) / std::cos(sy);
  const double c = std::sin(-sy) / std::cos(sy);
  const double d = -std::sin(-sy) * std::tan(sx) / std::cos(sy) + 1;
  transform(image, {d, -b, 0, -c, a, 0});
}

void translate(Image& image, int x, int y) {
  image = crop(image, -x, -y, image.width, image.height);
}

// PIL's Image.rotate, counter-clockwise about the centre.
void rotate(Image& image, double degrees) {
  const double angle = std::fmod(degrees, 360.0);
  if (angle == 0) return;
  const auto rounded = [](double v) { return std::nearbyint(v * 1e15) / 1e15; };
  const double turn = -angle * kRadians;
  Matrix m{rounded(std::cos(turn)),  rounded(std::sin(turn)), 0,
           rounded(-std::sin(turn)), rounded(std::cos(turn)), 0};
  const double x = image.width / 2.0, y = image.height / 2.0;
  m[2] = m[0] * -x + m[1] * -y + x;
  m[5] = m[3] * -x + m[4] * -y + y;
  transform(image, m);
}

// torch.linspace in float, which multiplies and adds with a single rounding.
float linspace(float from, float to, int bin, int bins) {
  const float step = (to - from) / static_cast<float>(bins - 1);
  return bin < bins / 2 ? std::fma(step, static_cast<float>(bin), from)
                        : std::fma(-step, static_cast<float>(bins - 1 - bin), to);
}

struct OperationRow {
  std::string_view name;
  bool has_sign;
};
constexpr OperationRow kOperationRows[kOperations] = {
    {"Identity", false},     {"ShearX", true},    {"ShearY", true},     {"TranslateX", true},
    {"TranslateY", true},    {"Rotate", true},    {"Brightness", true}, {"Color", true},
    {"Contrast", true},      {"Sharpness", true}, {"Posterize", false}, {"Solarize", false},
    {"AutoContrast", false}, {"Equalize", false}};

}  // namespace

std::string_view to_string(Operation operation) {
  return kOperationRows[static_cast<size_t>(operation)].name;
}

bool is_signed(Operation operation) {
  return kOperationRows[static_cast<size_t>(operation)].has_sign;
}

double magnitude_of(Operation operation, int bin, int bins, int width, int height) {
  const auto up_to = [=](double most) { return linspace(0, static_cast<float>(most), bin, bins); };
  switch (operation) {
    case Operation::identity:
    case Operation::autocontrast:
    case Operation::equalize: return 0;
    case Operation::shear_x:
    case Operation::shear_y: return up_to(0.3);
    case Operation::translate_x: return up_to(150.0 / 331.0 * width);
    case Operation::translate_y: return up_to(150.0 / 331.0 * height);
    case Operation::rotate: return up_to(30);
    case Operation::brightness:
    case Operation::color:
    case Operation::contrast:
    case Operation::sharpness: return up_to(0.9);
    case Operation::posterize:
      return 8 - std::nearbyint(static_cast<float>(bin) / static_cast<float>((bins - 1) / 4.0));
    case Operation::solarize: return linspace(255, 0, bin, bins);
  }
  fail(Failure::internal, "operation {}", static_cast<int>(operation));
}

void apply(Image& image, Operation operation, double magnitude) {
  const float factor = static_cast<float>(1.0 + magnitude);
  switch (operation) {
    case Operation::identity: return;
    case Operation::shear_x: return shear(image, magnitude, 0);
    case Operation::shear_y: return shear(image, 0, magnitude);
    case Operation::translate_x: return translate(image, static_cast<int>(magnitude), 0);
    case Operation::translate_y: return translate(image, 0, static_cast<int>(magnitude));
    case Operation::rotate: return rotate(image, magnitude);
    case Operation::brightness: return adjust_brightness(image, factor);
    case Operation::color: return adjust_saturation(image, factor);
    case Operation::contrast: return adjust_contrast(image, factor);
    case Operation::sharpness: return adjust_sharpness(image, factor);
    case Operation::posterize: return posterize(image, static_cast<int>(magnitude));
    case Operation::solarize: return solarize(image, static_cast<float>(magnitude));
    case Operation::autocontrast: return autocontrast(image);
    case Operation::equalize: return equalize(image);
  }
}

Stage random_operations(const RandAugment& r) {
  return [r](Image& image, Rng& rng) {
    for (int i = 0; i < r.operations; ++i) {
      const auto operation = static_cast<Operation>(rng.below(kOperations));
      const double magnitude =
          magnitude_of(operation, r.magnitude, r.bins, image.width, image.height);
      const bool negative = is_signed(operation) && rng.chance(0.5f);
      apply(image, operation, negative ? -magnitude : magnitude);
    }
  };
}

}  // namespace engine
