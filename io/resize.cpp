#include "io/resize.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/error.h"

namespace engine {
namespace {

// Coefficients are fixed point: 8 bits of pixel, 2 bits of headroom for bicubic overshoot.
constexpr int kFractionBits = 32 - 8 - 2;
constexpr int32_t kHalf = 1 << (kFractionBits - 1);

double triangle(double x) {
  return std::max(0.0, 1.0 - std::abs(x));
}

// Keys' cubic with a = −0.5.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// Which input samples make an output sample, and with what weights.
struct Taps {
  struct Range {
    int first, count;
  };
  std::vector<Range> ranges;     // one per output sample
  std::vector<int32_t> weights;  // `stride` per output sample
  int stride = 0;

  const int32_t* weights_of(int i) const { return weights.data() + size_t(i) * size_t(stride); }
};

// The order of every floating-point operation is Pillow's; the weights depend on it.
Taps make_taps(int from, int to, Interpolation interpolation) {
  const auto filter = interpolation == Interpolation::bilinear ? triangle : cubic;
  const double radius = interpolation == Interpolation::bilinear ? 1.0 : 2.0;
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(scale, 1.0);  // the filter widens when the image shrinks
  const double support = radius * stretch, shrink = 1.0 / stretch;

  Taps taps;
  taps.stride = static_cast<int>(std::ceil(support)) * 2 + 1;
  taps.ranges.resize(size_t(to));
  taps.weights.resize(size_t(to) * size_t(taps.stride));
  std::vector<double> exact(size_t(taps.stride));
  for (int i = 0; i < to; ++i) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int count = std::min(from, static_cast<int>(center + support + 0.5)) - first;
    double sum = 0;
    for (int k = 0; k < count; ++k)
      sum += exact[size_t(k)] = filter((k + first - center + 0.5) * shrink);
    int32_t* fixed = taps.weights.data() + size_t(i) * size_t(taps.stride);
    for (int k = 0; k < count; ++k) {
      const double weight = sum != 0.0 ? exact[size_t(k)] / sum : exact[size_t(k)];
      fixed[k] = static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kFractionBits));
    }
    taps.ranges[size_t(i)] = {first, count};
  }
  return taps;
}

uint8_t round_to_byte(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

// ---- horizontal: eight lanes, two rows of RGB (with an idle lane each) or eight rows of gray

constexpr int kLanes = 8;
struct alignas(4 * kLanes) Lanes {
  int32_t of[kLanes];
};
using Vector [[gnu::vector_size(4 * kLanes)]] = int32_t;  // Lanes in a register

template <int kChannels>
constexpr int kLanesPerRow = kChannels == 3 ? 4 : 1;

// Pixels of some rows side by side and widened: (width) lanes.
template <int kChannels>
void spread(Lanes* to, const Image& image, int y, int rows) {
  for (int r = 0; r < rows; ++r) {
    const uint8_t* from = image.row(y + r);
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < kChannels; ++c) to[x].of[r * kLanesPerRow<kChannels> + c] = *from++;
  }
}

template <int kChannels>
void gather(Image& image, const Lanes* from, int y, int rows) {
  for (int r = 0; r < rows; ++r) {
    uint8_t* to = image.row(y + r);
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < kChannels; ++c)
        *to++ = static_cast<uint8_t>(from[x].of[r * kLanesPerRow<kChannels> + c]);
  }
}

[[gnu::always_inline]] inline void blend_columns(Lanes* out, const Lanes* in, const Taps& taps) {
  const int32_t* weights = taps.weights.data();
  for (const auto [first, count] : taps.ranges) {
    Vector sums = Vector{} + kHalf;
    for (int k = 0; k < count; ++k) {
      Vector pixels;
      std::memcpy(&pixels, &in[first + k], sizeof pixels);
      sums += pixels * weights[k];
    }
    sums >>= kFractionBits;
    sums = sums < 0 ? 0 : sums;
    sums = sums > 255 ? 255 : sums;
    std::memcpy(out, &sums, sizeof sums);
    ++out;
    weights += taps.stride;
  }
}

// ---- vertical: one output row at a time, a stretch of it in registers

[[gnu::always_inline]] inline void blend_rows(uint8_t* out, const uint8_t* rows, size_t stride,
                                              const int32_t* weights, int count) {
  constexpr size_t kStretch = 32;
  size_t x = 0;
  for (; x + kStretch <= stride; x += kStretch) {
    int32_t sums[kStretch];
    for (size_t i = 0; i < kStretch; ++i) sums[i] = kHalf;
    for (int k = 0; k < count; ++k) {
      const uint8_t* from = rows + size_t(k) * stride + x;
      for (size_t i = 0; i < kStretch; ++i) sums[i] += from[i] * weights[k];
    }
    for (size_t i = 0; i < kStretch; ++i) out[x + i] = round_to_byte(sums[i]);
  }
  for (; x < stride; ++x) {
    int32_t sum = kHalf;
    for (int k = 0; k < count; ++k) sum += rows[size_t(k) * stride + x] * weights[k];
    out[x] = round_to_byte(sum);
  }
}

// ---- the same code for processors with and without AVX2, chosen once

struct Kernels {
  void (*columns)(Lanes* out, const Lanes* in, const Taps& taps);
  void (*rows)(uint8_t* out, const uint8_t* rows, size_t stride, const int32_t* weights, int count);
};

[[gnu::target("avx2")]] void columns_avx2(Lanes* out, const Lanes* in, const Taps& taps) {
  blend_columns(out, in, taps);
}
[[gnu::target("avx2")]] void rows_avx2(uint8_t* out, const uint8_t* rows, size_t stride,
                                       const int32_t* weights, int count) {
  blend_rows(out, rows, stride, weights, count);
}
void columns_any(Lanes* out, const Lanes* in, const Taps& taps) {
  blend_columns(out, in, taps);
}
void rows_any(uint8_t* out, const uint8_t* rows, size_t stride, const int32_t* weights, int count) {
  blend_rows(out, rows, stride, weights, count);
}

const Kernels& kernels() {
  static const Kernels chosen = __builtin_cpu_supports("avx2") ? Kernels{columns_avx2, rows_avx2}
                                                               : Kernels{columns_any, rows_any};
  return chosen;
}

// Rows [first, last) of the image, resized in width.
template <int kChannels>
Image resize_width(const Image& image, int width, int first, int last,
                   Interpolation interpolation) {
  constexpr int kTogether = kLanes / kLanesPerRow<kChannels>;
  const Taps taps = make_taps(image.width, width, interpolation);
  std::vector<Lanes> in(static_cast<size_t>(image.width)), blended(static_cast<size_t>(width));
  Image out(width, last - first, kChannels);
  for (int y = first; y < last; y += kTogether) {
    const int rows = std::min(kTogether, last - y);
    spread<kChannels>(in.data(), image, y, rows);
    kernels().columns(blended.data(), in.data(), taps);
    gather<kChannels>(out, blended.data(), y - first, rows);
  }
  return out;
}

Image resize_width(const Image& image, int width, int first, int last,
                   Interpolation interpolation) {
  return image.channels == 3 ? resize_width<3>(image, width, first, last, interpolation)
                             : resize_width<1>(image, width, first, last, interpolation);
}

// `taps` count rows of the original image; `image` begins with its row `first`.
Image resize_height(const Image& image, const Taps& taps, int first) {
  Image out(image.width, static_cast<int>(taps.ranges.size()), image.channels);
  const size_t stride = size_t(image.width) * size_t(image.channels);
  for (int y = 0; y < out.height; ++y) {
    const auto [row, count] = taps.ranges[size_t(y)];
    kernels().rows(out.row(y), image.row(row - first), stride, taps.weights_of(y), count);
  }
  return out;
}

}  // namespace

std::string_view to_string(Interpolation interpolation) {
  return interpolation == Interpolation::bilinear ? "bilinear" : "bicubic";
}

Interpolation parse_interpolation(std::string_view text) {
  if (text == "bilinear") return Interpolation::bilinear;
  if (text == "bicubic") return Interpolation::bicubic;
  fail(Failure::usage, "interpolation {}: bilinear or bicubic", text);
}

Image resize(const Image& image, int width, int height, Interpolation interpolation) {
  assert(image.width > 0 && image.height > 0 && width > 0 && height > 0);
  assert(image.channels == 1 || image.channels == 3);
  const bool narrow = width != image.width, flatten = height != image.height;
  if (!flatten) return narrow ? resize_width(image, width, 0, image.height, interpolation) : image;

  const Taps taps = make_taps(image.height, height, interpolation);
  if (!narrow) return resize_height(image, taps, 0);
  // Only the rows that the second pass reads.
  const int first = taps.ranges.front().first;
  const int last = taps.ranges.back().first + taps.ranges.back().count;
  return resize_height(resize_width(image, width, first, last, interpolation), taps, first);
}

Image resize_shorter(const Image& image, int size, Interpolation interpolation) {
  const int shorter = std::min(image.width, image.height);
  const int longer = std::max(image.width, image.height);
  const int other = static_cast<int>(static_cast<double>(int64_t{size} * longer) / shorter);
  const bool tall = image.height > image.width;
  return resize(image, tall ? size : other, tall ? other : size, interpolation);
}

}  // namespace engine
