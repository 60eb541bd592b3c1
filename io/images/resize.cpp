#include "io/images/resize.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/error.h"

namespace engine {
namespace {

// Coefficients are in fixed point: 8 bits are for the pixel, 2 for the overshoot of bicubic.
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

// The weights of the horizontal pass are split into two parts of 16 bits, weight = high · 2^11 +
// low, so that products of bytes can be added in pairs.
constexpr int kLowBits = 11;
constexpr int kBlock = 4;  // taps that are treated together

struct Block {
  int16_t high[kBlock], low[kBlock];
};

// What is resized in one axis: `from` samples become `to`, of which [first, last) are wanted.
struct Axis {
  int from, to;
  int first, last;
  Interpolation interpolation;
};

// Which input samples make an output sample, and with what weights; for the wanted samples alone.
struct Taps {
  struct Range {
    int first, count;
  };
  Axis axis{};
  std::vector<Range> ranges;     // one per output sample
  std::vector<int32_t> weights;  // `stride` per output sample
  std::vector<Block> blocks;     // `stride / kBlock` per output sample
  int stride = 0;                // a multiple of kBlock; weights beyond the count are 0

  size_t at(int i) const { return size_t(i - axis.first); }
  const Range& range_of(int i) const { return ranges[at(i)]; }
  const int32_t* weights_of(int i) const { return weights.data() + at(i) * size_t(stride); }
  const Block* blocks_of(int i) const { return blocks.data() + at(i) * size_t(stride / kBlock); }
};

// The order of every floating-point operation is Pillow's; the weights depend on it.
Taps make_taps(const Axis& axis) {
  const auto [from, to, begin, end, interpolation] = axis;
  const bool linear = interpolation == Interpolation::bilinear;
  const double radius = linear ? 1.0 : 2.0;
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(scale, 1.0);  // the filter widens when the image shrinks
  const double support = radius * stretch, shrink = 1.0 / stretch;

  Taps taps{.axis = axis};
  taps.stride = (static_cast<int>(std::ceil(support)) * 2 + kBlock) / kBlock * kBlock;
  taps.ranges.resize(size_t(end - begin));
  taps.weights.resize(size_t(end - begin) * size_t(taps.stride));
  std::vector<double> exact(size_t(taps.stride));
  for (int i = begin; i < end; ++i) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int count = std::min(from, static_cast<int>(center + support + 0.5)) - first;
    double sum = 0;
    for (int k = 0; k < count; ++k) {
      const double at = (k + first - center + 0.5) * shrink;
      sum += exact[size_t(k)] = linear ? triangle(at) : cubic(at);
    }
    int32_t* fixed = taps.weights.data() + taps.at(i) * size_t(taps.stride);
    for (int k = 0; k < count; ++k) {
      const double weight = sum != 0.0 ? exact[size_t(k)] / sum : exact[size_t(k)];
      fixed[k] = static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kFractionBits));
    }
    taps.ranges[taps.at(i)] = {first, count};
  }
  taps.blocks.resize(taps.weights.size() / kBlock);
  for (size_t i = 0; i < taps.weights.size(); ++i) {
    Block& block = taps.blocks[i / kBlock];
    block.high[i % kBlock] = static_cast<int16_t>(taps.weights[i] >> kLowBits);
    block.low[i % kBlock] = static_cast<int16_t>(taps.weights[i] & ((1 << kLowBits) - 1));
  }
  return taps;
}

// Most data sets have few sizes, so a thread meets the same ones again, and most axes are short, so
// their taps serve every window. Of a thin picture, only the taps of the window are made.
const Taps& taps_of(Axis axis) {
  constexpr int kShort = 1 << 14;
  if (axis.to <= kShort) axis.first = 0, axis.last = axis.to;
  thread_local std::array<Taps, 8> known;
  thread_local size_t oldest = 0;
  for (const Taps& taps : known)
    if (taps.axis.from == axis.from && taps.axis.to == axis.to && taps.axis.first <= axis.first &&
        taps.axis.last >= axis.last && taps.axis.interpolation == axis.interpolation)
      return taps;
  Taps& taps = known[oldest++ % known.size()];
  return taps = make_taps(axis);
}

uint8_t round_to_byte(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

// ---- horizontal: rows of pixels to rows of `last − first` pixels, which lie `pitch` bytes apart

constexpr int kRows = 4;           // rows that are treated together
constexpr size_t kReadAhead = 16;  // bytes after the last pixel of a row that may be read

struct Columns {
  const Taps* taps;
  int first, last;  // output samples
  int offset;       // of the rows' first pixel in the axis
};

template <int kChannels>
void columns_any(uint8_t* out, size_t pitch, const uint8_t* const (&rows)[kRows],
                 const Columns& columns) {
  for (int x = columns.first; x < columns.last; ++x) {
    const auto [first, count] = columns.taps->range_of(x);
    const int32_t* weights = columns.taps->weights_of(x);
    uint8_t* to = out + size_t(x - columns.first) * kChannels;
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* from = rows[r] + size_t(first - columns.offset) * kChannels;
      for (int c = 0; c < kChannels; ++c) {
        int32_t sum = kHalf;
        for (int k = 0; k < count; ++k) sum += from[k * kChannels + c] * weights[k];
        to[size_t(r) * pitch + size_t(c)] = round_to_byte(sum);
      }
    }
  }
}

#if defined(__x86_64__)
// Takes four RGB pixels at a time: two in each half of a register, interleaved by channel. They are
// multiplied by their weights and added in pairs; the halves are added at the end. Where two pixels
// suffice (enlarging, bilinear) each half has a row of its own instead. A fourth byte is written
// after each pixel.
[[gnu::target("avx2")]] void columns_avx2(uint8_t* out, size_t pitch,
                                          const uint8_t* const (&rows)[kRows],
                                          const Columns& columns) {
  const __m256i four_pixels =
      _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                       6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m256i two_pixels =
      _mm256_permute2x128_si256(four_pixels, four_pixels, 0);  // the first two in both halves
  const __m256i first_two = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  const __m256i last_two = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  const __m256i half = _mm256_set1_epi32(kHalf);
  for (int x = columns.first; x < columns.last; ++x, out += 3) {
    const auto [first, count] = columns.taps->range_of(x);
    const Block* block = columns.taps->blocks_of(x);
    size_t at = size_t(first - columns.offset) * 3;
    __m256i sums[kRows / 2];  // a row in each half
    if (count <= 2) {
      int32_t high, low;  // the weights of both pixels
      std::memcpy(&high, block->high, sizeof high);
      std::memcpy(&low, block->low, sizeof low);
      const __m256i high_weights = _mm256_set1_epi32(high), low_weights = _mm256_set1_epi32(low);
      for (int i = 0; i < kRows / 2; ++i) {
        const __m256i pixels = _mm256_shuffle_epi8(
            _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(rows[2 * i + 1] + at),
                                reinterpret_cast<const __m128i*>(rows[2 * i] + at)),
            two_pixels);
        sums[i] =
            _mm256_add_epi32(_mm256_slli_epi32(_mm256_madd_epi16(pixels, high_weights), kLowBits),
                             _mm256_madd_epi16(pixels, low_weights));
      }
    } else {
      __m256i high[kRows], low[kRows];
      for (int r = 0; r < kRows; ++r) high[r] = low[r] = _mm256_setzero_si256();
      for (int k = 0; k < count; k += kBlock, ++block, at += kBlock * 3) {
        const __m256i both =
            _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
        const __m256i high_weights = _mm256_permutevar8x32_epi32(both, first_two);
        const __m256i low_weights = _mm256_permutevar8x32_epi32(both, last_two);
        for (int r = 0; r < kRows; ++r) {
          const __m256i pixels = _mm256_shuffle_epi8(
              _mm256_broadcastsi128_si256(
                  _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + at))),
              four_pixels);
          high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(pixels, high_weights));
          low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(pixels, low_weights));
        }
      }
      for (int r = 0; r < kRows; ++r)
        high[r] = _mm256_add_epi32(_mm256_slli_epi32(high[r], kLowBits), low[r]);
      for (int i = 0; i < kRows / 2; ++i)
        sums[i] = _mm256_add_epi32(_mm256_permute2x128_si256(high[2 * i], high[2 * i + 1], 0x20),
                                   _mm256_permute2x128_si256(high[2 * i], high[2 * i + 1], 0x31));
    }
    for (__m256i& sum : sums) sum = _mm256_srai_epi32(_mm256_add_epi32(sum, half), kFractionBits);
    const __m256i words = _mm256_packs_epi32(sums[0], sums[1]);
    const __m256i bytes = _mm256_packus_epi16(words, words);  // rows 0, 2, … and 1, 3, …
    const int32_t values[kRows] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4),
                                   _mm256_extract_epi32(bytes, 1), _mm256_extract_epi32(bytes, 5)};
    for (int r = 0; r < kRows; ++r) std::memcpy(out + size_t(r) * pitch, &values[r], 4);
  }
}
#endif

// ---- vertical: one output row at a time, with a stretch of it in registers

[[gnu::always_inline]] inline void blend_rows(uint8_t* out, const uint8_t* rows, size_t pitch,
                                              size_t bytes, const int32_t* weights, int count) {
  constexpr size_t kStretch = 32;
  size_t x = 0;
  for (; x + kStretch <= bytes; x += kStretch) {
    int32_t sums[kStretch];
    for (size_t i = 0; i < kStretch; ++i) sums[i] = kHalf;
    for (int k = 0; k < count; ++k) {
      const uint8_t* from = rows + size_t(k) * pitch + x;
      for (size_t i = 0; i < kStretch; ++i) sums[i] += from[i] * weights[k];
    }
    for (size_t i = 0; i < kStretch; ++i) out[x + i] = round_to_byte(sums[i]);
  }
  for (; x < bytes; ++x) {
    int32_t sum = kHalf;
    for (int k = 0; k < count; ++k) sum += rows[size_t(k) * pitch + x] * weights[k];
    out[x] = round_to_byte(sum);
  }
}

void rows_any(uint8_t* out, const uint8_t* rows, size_t pitch, size_t bytes, const int32_t* weights,
              int count) {
  blend_rows(out, rows, pitch, bytes, weights, count);
}
#if defined(__x86_64__)
[[gnu::target("avx2")]] void rows_avx2(uint8_t* out, const uint8_t* rows, size_t pitch,
                                       size_t bytes, const int32_t* weights, int count) {
  blend_rows(out, rows, pitch, bytes, weights, count);
}
#endif

// ---- chosen once by what the processor has

struct Kernels {
  void (*rgb_columns)(uint8_t* out, size_t pitch, const uint8_t* const (&rows)[kRows],
                      const Columns& columns);
  void (*rows)(uint8_t* out, const uint8_t* rows, size_t pitch, size_t bytes,
               const int32_t* weights, int count);
};

const Kernels& kernels() {
  static const Kernels chosen = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return Kernels{columns_avx2, rows_avx2};
#endif
    return Kernels{columns_any<3>, rows_any};
  }();
  return chosen;
}

// Rows of bytes, reused from picture to picture. kReadAhead bytes after each row may be read.
struct Rows {
  std::vector<uint8_t> bytes;
  size_t pitch = 0;

  uint8_t* shape(size_t width, int height) {
    pitch = width + kReadAhead;
    bytes.resize(std::max(bytes.size(), pitch * size_t(height) + kReadAhead));
    return bytes.data();
  }
};

// Resizes rows [first, last) of the view in width.
void resize_width(Rows& out, const ImageView& view, const Columns& columns, int first, int last) {
  thread_local Rows ends;  // copies of the rows after which there is nothing to read
  const size_t channels = size_t(view.channels), stride = size_t(view.width) * channels;
  const int rows_in_all = last - first, groups = (rows_in_all + kRows - 1) / kRows;
  uint8_t* to = out.shape(size_t(columns.last - columns.first) * channels, groups * kRows);
  const auto blend = view.channels == 3 ? kernels().rgb_columns : columns_any<1>;
  uint8_t* copies = ends.shape(stride, kRows);
  const uint8_t* end = view.pixels + view.bytes();
  for (int group = 0; group < groups; ++group, to += kRows * out.pitch) {
    const uint8_t* rows[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int y = std::min(first + group * kRows + r, last - 1);
      rows[r] = view.pixels + size_t(y) * stride;
      if (size_t(end - rows[r]) >= stride + kReadAhead) continue;
      uint8_t* copy = copies + size_t(r) * ends.pitch;
      std::memcpy(copy, rows[r], stride);
      rows[r] = copy;
    }
    blend(to, out.pitch, rows, columns);
  }
}

// The wanted part of an axis, as far as it lies in the resized picture, and what it is made of.
struct Extent {
  int first, last;            // output samples
  int first_read, last_read;  // input samples
};

Extent extent_of(int from, int to, int begin, int size, Interpolation interpolation) {
  Extent e{std::clamp(begin, 0, to), std::clamp(begin + size, 0, to), 0, 0};
  if (e.first >= e.last) return e;
  if (from == to) return {e.first, e.last, e.first, e.last};
  const Taps& taps = taps_of({from, to, e.first, e.last, interpolation});
  const Taps::Range& last = taps.range_of(e.last - 1);
  e.first_read = taps.range_of(e.first).first;
  e.last_read = last.first + last.count;
  return e;
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

CropWindow pixels_read(const Resampling& s, Interpolation interpolation) {
  const Extent x = extent_of(s.source.width, s.width, s.window.left, s.window.width, interpolation);
  const Extent y =
      extent_of(s.source.height, s.height, s.window.top, s.window.height, interpolation);
  return {s.source.left + x.first_read, s.source.top + y.first_read,
          std::max(1, x.last_read - x.first_read), std::max(1, y.last_read - y.first_read)};
}

Image resample(const ImageView& view, int left, int top, const Resampling& s,
               Interpolation interpolation) {
  assert(view.channels == 1 || view.channels == 3);
  assert(s.source.width > 0 && s.source.height > 0 && s.width > 0 && s.height > 0);
  const Extent x = extent_of(s.source.width, s.width, s.window.left, s.window.width, interpolation);
  const Extent y =
      extent_of(s.source.height, s.height, s.window.top, s.window.height, interpolation);
  Image out(s.window.width, s.window.height, view.channels);
  if (x.first >= x.last || y.first >= y.last) return out;

  // From here on, (column, row) of `pixels` is (x.first, y.first_read) of the axes.
  const size_t channels = size_t(view.channels);
  const int skipped_columns = left - s.source.left, skipped_rows = top - s.source.top;
  const uint8_t* pixels;
  size_t pitch;
  if (s.width != s.source.width) {
    thread_local Rows narrow;
    const Columns columns{
        .taps = &taps_of({s.source.width, s.width, x.first, x.last, interpolation}),
        .first = x.first,
        .last = x.last,
        .offset = skipped_columns};
    resize_width(narrow, view, columns, y.first_read - skipped_rows, y.last_read - skipped_rows);
    pixels = narrow.bytes.data();
    pitch = narrow.pitch;
  } else {
    pitch = size_t(view.width) * channels;
    pixels = view.pixels + size_t(y.first_read - skipped_rows) * pitch +
             size_t(x.first - skipped_columns) * channels;
  }

  const size_t bytes = size_t(x.last - x.first) * channels;
  const Taps* taps = s.height == s.source.height
                         ? nullptr
                         : &taps_of({s.source.height, s.height, y.first, y.last, interpolation});
  for (int i = y.first; i < y.last; ++i) {
    uint8_t* to = out.row(i - s.window.top) + size_t(x.first - s.window.left) * channels;
    if (!taps) {
      std::memcpy(to, pixels + size_t(i - y.first_read) * pitch, bytes);
      continue;
    }
    const auto [row, count] = taps->range_of(i);
    kernels().rows(to, pixels + size_t(row - y.first_read) * pitch, pitch, bytes,
                   taps->weights_of(i), count);
  }
  return out;
}

Image resize(const Image& image, int width, int height, Interpolation interpolation) {
  return resample(view_of(image), 0, 0,
                  {{0, 0, image.width, image.height}, width, height, {0, 0, width, height}},
                  interpolation);
}

Size shorter_side_to(int size, int width, int height) {
  const int shorter = std::min(width, height), longer = std::max(width, height);
  const int other = static_cast<int>(static_cast<double>(int64_t{size} * longer) / shorter);
  return height > width ? Size{size, other} : Size{other, size};
}

Image resize_shorter(const Image& image, int size, Interpolation interpolation) {
  const Size to = shorter_side_to(size, image.width, image.height);
  return resize(image, to.width, to.height, interpolation);
}

}  // namespace engine
