// PNG files of every kind, written here sample by sample, and the errors that damaged ones give.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/images/decode.h"
#include "io/images/exif.h"
#include "io/images/inspect.h"
#include "tests/io/images/pillow.h"
#include "tests/io/images/png_chunk.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

enum ColorType { kGray = 0, kRgb = 2, kIndexed = 3, kGrayAlpha = 4, kRgba = 6 };

struct Kind {
  ColorType type;
  int depth;
  bool interlaced = false;
  int colors = 3;  // in the palette, which may be more or fewer than the depth can tell apart
};

std::string describe(const Kind& kind) {
  return fmt::format("type{}_depth{}_colors{}{}", int(kind.type), kind.depth, kind.colors,
                     kind.interlaced ? "_interlaced" : "");
}

// The picture as the file stores it: (height, width, samples per pixel).
struct Samples {
  int width, height, per_pixel;
  std::vector<uint16_t> values;

  const uint16_t* at(int x, int y) const { return &values[size_t((y * width + x) * per_pixel)]; }
};

Samples noise(const Kind& kind, int width, int height) {
  const int per_pixel = kind.type == kRgba        ? 4
                        : kind.type == kRgb       ? 3
                        : kind.type == kGrayAlpha ? 2
                                                  : 1;
  Samples samples{width, height, per_pixel, {}};
  uint32_t seed = 1;
  for (int i = 0; i < width * height * per_pixel; ++i) {
    seed = seed * 1664525u + 1013904223u;
    samples.values.push_back(uint16_t(seed >> (32 - kind.depth)));
  }
  return samples;
}

std::string compressed(const std::string& bytes) {
  uLongf size = compressBound(bytes.size());
  std::string out(size, 0);
  compress(reinterpret_cast<Bytef*>(out.data()), &size,
           reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  out.resize(size);
  return out;
}

// The rows of every `dx`-th pixel with high bits first; filter 0 stands before each row.
std::string scanlines(const Samples& samples, int depth, int left, int top, int dx, int dy) {
  std::string bytes;
  for (int y = top; y < samples.height && left < samples.width; y += dy) {
    bytes += '\0';
    uint32_t pending = 0;
    int bits = 0;
    for (int x = left; x < samples.width; x += dx)
      for (int i = 0; i < samples.per_pixel; ++i) {
        pending = pending << depth | samples.at(x, y)[i];
        for (bits += depth; bits >= 8; bits -= 8) bytes += char(pending >> (bits - 8));
      }
    if (bits > 0) bytes += char(pending << (8 - bits));
  }
  return bytes;
}

std::string header(const Kind& kind, int width, int height) {
  return "\x89PNG\r\n\x1a\n" +
         png_chunk("IHDR", big_endian(uint32_t(width)) + big_endian(uint32_t(height)) +
                               char(kind.depth) + char(kind.type) + std::string(2, 0) +
                               char(kind.interlaced));
}

std::string pixels(const Kind& kind, const Samples& samples) {
  if (!kind.interlaced)
    return png_chunk("IDAT", compressed(scanlines(samples, kind.depth, 0, 0, 1, 1)));
  constexpr int kAdam7[7][4] = {// left, top, dx, dy
                                {0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
  std::string bytes;
  for (const auto& [left, top, dx, dy] : kAdam7)
    bytes += scanlines(samples, kind.depth, left, top, dx, dy);
  return png_chunk("IDAT", compressed(bytes));
}

const std::string kEnd = png_chunk("IEND", "");

std::array<uint8_t, 3> color_of(int index) {
  return {uint8_t(200 + 37 * index), uint8_t(7 * index), uint8_t(90 - 11 * index)};
}

std::string palette(int colors) {
  std::string bytes;
  for (int i = 0; i < colors; ++i)
    for (const uint8_t value : color_of(i)) bytes += char(value);
  return png_chunk("PLTE", bytes);
}

std::string png(const Kind& kind, const Samples& samples, const std::string& before = "",
                const std::string& after = "") {
  return header(kind, samples.width, samples.height) +
         (kind.type == kIndexed ? palette(kind.colors) : "") + before + pixels(kind, samples) +
         after + kEnd;
}

Image decoded(const std::string& file, int channels = 3) {
  return decode(std::as_bytes(std::span(file)), "a.png", channels);
}

ImageInfo info(const std::string& file) {
  return inspect_image(std::as_bytes(std::span(file)), "a.png");
}

std::string refusal(const std::string& file) {
  return message_of([&] { decoded(file); });
}

// Fewer than 8 bits are stretched, of 16 the high byte stays, alpha is dropped, and a colour that
// the palette lacks is black.
Image expected(const Kind& kind, const Samples& samples) {
  Image image(samples.width, samples.height, 3);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < 3; ++c) {
        const uint16_t* pixel = samples.at(x, y);
        const uint16_t value = pixel[samples.per_pixel >= 3 ? c : 0];
        uint8_t& out = image.row(y)[3 * x + c];
        if (kind.type == kIndexed)
          out = value < kind.colors ? color_of(value)[size_t(c)] : 0;
        else
          out = uint8_t(kind.depth == 16 ? value >> 8 : value * 255 / ((1 << kind.depth) - 1));
      }
  return image;
}

std::vector<Kind> every_kind() {
  std::vector<Kind> kinds;
  for (const bool interlaced : {false, true}) {
    for (const int depth : {1, 2, 4, 8, 16}) kinds.push_back({kGray, depth, interlaced});
    for (const int depth : {1, 2, 4, 8})
      for (const int colors : {3, 1 << depth})
        kinds.push_back({kIndexed, depth, interlaced, colors});
    for (const ColorType type : {kRgb, kGrayAlpha, kRgba})
      for (const int depth : {8, 16}) kinds.push_back({type, depth, interlaced});
  }
  return kinds;
}

// A TIFF structure whose only entry is the orientation.
std::string exif(int orientation) {
  const std::string start = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0};
  return png_chunk("eXIf", start + char(orientation) + std::string(6, 0));
}

}  // namespace

TEST_CASE("PNG: every colour type and depth, interlaced or not, with indices beyond the palette") {
  TemporaryFolder folder;
  std::ofstream cases(folder.path() / "cases.txt");
  const bool pillow = has_python_module("PIL");
  for (const Kind& kind : every_kind())
    for (const int width : {1, 3, 13}) {
      CAPTURE(describe(kind));
      CAPTURE(width);
      const Samples samples = noise(kind, width, 11);
      const std::string file = png(kind, samples);
      const Image image = decoded(file);
      CHECK(same_pixels(image, expected(kind, samples)));
      CHECK(same_pixels(decoded(file, 1), convert_channels(image, 1)));
      const ImageInfo told = info(file);
      CHECK(told.format == "png");
      CHECK(told.width == width);
      CHECK(told.height == 11);
      CHECK(told.bits == (kind.depth == 16 ? 16 : 8));
      CHECK(told.channels == (kind.type == kGray || kind.type == kGrayAlpha ? 1 : 3));
      CHECK(told.alpha == (kind.type == kGrayAlpha || kind.type == kRgba));
      if (kind.type == kGray && kind.depth == 16) continue;     // PIL clips it to 255
      if (kind.type == kIndexed && kind.colors == 3) continue;  // older PILs invent colours
      const auto path = folder.path() / fmt::format("{}_{}.png", describe(kind), width);
      std::ofstream(path, std::ios::binary) << file;
      write_raw(path.string() + ".ours", image);
      cases << path.string() << '|' << path.string() << ".raw|decode\n";
    }
  cases.close();
  if (!pillow) return note_skipped("the same by PIL: no Python with PIL");
  run_pillow("cases", folder.path());
  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    if (entry.path().extension() != ".raw") continue;
    INFO(entry.path().filename().string());
    std::filesystem::path ours = entry.path();
    CHECK(same_pixels(read_raw(entry.path()), read_raw(ours.replace_extension(".ours"))));
    ++compared;
  }
  CHECK(compared == 3 * (38 - 2 - 8));
}

TEST_CASE("PNG: transparent colours change no pixel") {
  for (const Kind kind : {Kind{kGray, 8}, Kind{kRgb, 8}, Kind{kIndexed, 2}}) {
    CAPTURE(describe(kind));
    const Samples samples = noise(kind, 9, 5);
    const std::string colour = kind.type == kIndexed ? std::string("\x00\x80", 2)
                               : kind.type == kGray  ? std::string("\x00\x07", 2)
                                                     : std::string(6, 7);
    const std::string file = png(kind, samples, png_chunk("tRNS", colour));
    CHECK(same_pixels(decoded(file), expected(kind, samples)));
    CHECK(info(file).alpha == (kind.type == kIndexed));
  }
}

TEST_CASE("PNG: orientation in an eXIf chunk, before or after the pixels") {
  const Kind kind{kRgb, 8};
  const Samples samples = noise(kind, 6, 4);
  for (int orientation = 1; orientation <= 8; ++orientation) {
    CAPTURE(orientation);
    const Image turned = upright(expected(kind, samples), orientation);
    CHECK(same_pixels(decoded(png(kind, samples, exif(orientation))), turned));
    CHECK(same_pixels(decoded(png(kind, samples, "", exif(orientation))), turned));
    CHECK(info(png(kind, samples, exif(orientation))).orientation == orientation);
  }
  const std::string not_exif = png_chunk("eXIf", "no structure");
  CHECK(same_pixels(decoded(png(kind, samples, not_exif)), expected(kind, samples)));
}

TEST_CASE("PNG: chunks that the pixels do not need are passed over, damaged or not") {
  const Kind kind{kRgb, 8};
  const Samples samples = noise(kind, 6, 4);
  std::string damaged = png_chunk("tEXt", std::string("Comment\0any", 11));
  damaged.back() ^= 1;
  for (const std::string& extra : {png_chunk("tEXt", std::string("Comment\0any", 11)), damaged,
                                   png_chunk("gAMA", "12345"), png_chunk("iCCP", "no profile"),
                                   png_chunk("prIv", "private"), png_chunk("sBIT", "\x05\x06\x05")})
    CHECK(same_pixels(decoded(png(kind, samples, extra)), expected(kind, samples)));
}

TEST_CASE("PNG: what is wrong with a file is said, with its name") {
  const Kind kind{kIndexed, 4};
  const Samples samples = noise(kind, 20, 20);
  const std::string start = header(kind, 20, 20), good = png(kind, samples);
  const std::string data = pixels(kind, samples);
  CHECK(same_pixels(decoded(good), expected(kind, samples)));
  for (size_t length = 0; length < good.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(decoded(good.substr(0, length)), Error);
  }
  CHECK(refusal(good.substr(0, good.size() - 1)) == "a.png: PNG: the file is truncated");
  const size_t begin_of_data = start.size() + palette(kind.colors).size();
  for (const size_t at : {start.size() + 9, start.size() + 12, begin_of_data + 4}) {
    CAPTURE(at);
    std::string bad = good;
    bad[at] ^= 1;
    CHECK(mentions(refusal(bad), "a.png: PNG: "));
  }
  const auto says = [&](const std::string& file, const std::string& reason) {
    CHECK(mentions(refusal(file), "a.png: PNG: " + reason));
  };
  std::string bad = good;
  bad[start.size() + 9] ^= 1;
  says(bad, "PLTE: CRC error");
  says(start + data + kEnd, "IDAT: Missing PLTE");
  says(start + palette(kind.colors) + kEnd, "IEND: out of place");
  says(header(kind, 20, 21) + palette(kind.colors) + data + kEnd, "Not enough image data");
  says(header({kIndexed, 16}, 20, 20) + palette(kind.colors) + data + kEnd, "Invalid IHDR");
  says(png(kind, samples, png_chunk("NEED", "it")), "NEED: unhandled critical chunk");
  CHECK(mentions(refusal(header(kind, 60'000, 60'000) + palette(kind.colors) + data),
                 "a.png: 60000x60000 pixels; the limits"));
  CHECK(mentions(refusal(good.substr(0, 8) + png_chunk("CgBI", "\x50") + good.substr(8)),
                 "a.png: Apple's CgBI"));
}
