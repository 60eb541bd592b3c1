// Image files that Pillow cannot write, built here byte by byte; the right pixels are Pillow's or
// those of the format's specification.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/images/decode.h"
#include "io/images/encode.h"
#include "io/images/exif.h"
#include "io/images/inspect.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using namespace std::string_literals;

namespace {

std::string u16(int value) {
  return {char(value), char(value >> 8)};
}
std::string u32(uint32_t value) {
  return u16(int(value & 0xFFFF)) + u16(int(value >> 16));
}

Image decode_file(const std::string& file, int channels = 3) {
  return decode(std::as_bytes(std::span(file)), "a.file", channels);
}

std::string message(const std::string& file) {
  return message_of([&] { decode_file(file); });
}

using Pixels = std::vector<uint8_t>;

// ---- BMP

struct Bmp {
  int header = 40;
  int width = 2, height = 1, bits = 24;
  int compression = 0, colors = 0;
  std::string masks = "";    // after the 40 bytes that all headers share
  std::string palette = "";  // entries of 3 (header 12) or 4 bytes
};

std::string bmp(const Bmp& b, const std::string& pixels) {
  std::string header = u32(uint32_t(b.header));
  if (b.header == 12)
    header += u16(b.width) + u16(b.height) + u16(1) + u16(b.bits);
  else
    header += u32(uint32_t(b.width)) + u32(uint32_t(b.height)) + u16(1) + u16(b.bits) +
              u32(uint32_t(b.compression)) + std::string(12, '\0') + u32(uint32_t(b.colors)) +
              u32(0) + b.masks;
  if (header.size() < size_t(b.header)) header.resize(size_t(b.header));
  const std::string all = header + b.palette;
  return "BM" + u32(0) + u32(0) + u32(uint32_t(14 + all.size())) + all + pixels;
}

// ---- GIF

// Codes of three bits for four colours. A clear code before every pixel keeps them at that size.
std::string gif_pixels(const Pixels& indices) {
  constexpr int kClear = 4, kEnd = 5, kBits = 3;
  std::vector<int> codes;
  for (const uint8_t index : indices) codes.insert(codes.end(), {kClear, int(index)});
  codes.push_back(kEnd);
  std::string bytes;
  int pending = 0, bits = 0;
  for (const int code : codes) {
    pending |= code << bits;
    for (bits += kBits; bits >= 8; bits -= 8, pending >>= 8) bytes += char(pending);
  }
  if (bits > 0) bytes += char(pending);
  return "\2"s + char(bytes.size()) + bytes + '\0';
}

struct Gif {
  int screen_width = 2, screen_height = 2;
  int left = 0, top = 0, width = 2, height = 2;
  bool interlaced = false;
  int transparent = -1;
};

// Four colours: red, green, blue, white.
std::string gif(const Gif& g, const Pixels& indices) {
  std::string file = "GIF89a" + u16(g.screen_width) + u16(g.screen_height) + "\x81\2\0"s +
                     "\xff\0\0\0\xff\0\0\0\xff\xff\xff\xff"s;
  if (g.transparent >= 0) file += "!\xf9\4\1\0\0"s + char(g.transparent) + '\0';
  return file + ',' + u16(g.left) + u16(g.top) + u16(g.width) + u16(g.height) +
         char(g.interlaced ? 0x40 : 0) + gif_pixels(indices) + ';';
}

const Pixels kRed{255, 0, 0}, kGreen{0, 255, 0}, kBlue{0, 0, 255}, kWhite{255, 255, 255};

Pixels joined(const std::vector<Pixels>& colors) {
  Pixels all;
  for (const Pixels& color : colors) all.insert(all.end(), color.begin(), color.end());
  return all;
}

// ---- TGA

std::string tga(int type, int width, int height, int depth, int descriptor,
                const std::string& rest) {
  return "\0\0"s + char(type) + std::string(9, '\0') + u16(width) + u16(height) + char(depth) +
         char(descriptor) + rest;
}

// ---- TIFF

struct Tag {
  int number, type;  // 3 is a short, 4 a long
  uint32_t value;
};

// Gray of 8 bits in one strip, which begins at byte 8.
std::string tiff(int width, int height, const std::string& pixels, std::vector<Tag> more = {}) {
  std::vector<Tag> tags = {{256, 3, uint32_t(width)},
                           {257, 3, uint32_t(height)},
                           {258, 3, 8},
                           {259, 3, 1},
                           {262, 3, 1},
                           {273, 4, 8},
                           {278, 3, uint32_t(height)},
                           {279, 4, uint32_t(pixels.size())}};
  for (const Tag& tag : more) {
    std::erase_if(tags, [&](const Tag& t) { return t.number == tag.number; });
    tags.push_back(tag);
  }
  std::ranges::sort(tags, {}, &Tag::number);
  std::string directory = u16(int(tags.size()));
  for (const Tag& tag : tags)
    directory += u16(tag.number) + u16(tag.type) + u32(1) + u32(tag.value);
  return "II*\0"s + u32(uint32_t(8 + pixels.size())) + pixels + directory + u32(0);
}

// A TIFF structure whose only entry is the orientation.
std::string exif(bool little, int type, int orientation) {
  const auto number = [&](uint32_t value, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += char(value >> 8 * (little ? i : bytes - 1 - i));
    return text;
  };
  const std::string value = type == 4 ? number(uint32_t(orientation), 4)
                                      : number(uint32_t(orientation), 2) + std::string(2, '\0');
  return (little ? "II" : "MM") + number(42, 2) + number(8, 4) + number(1, 2) + number(0x0112, 2) +
         number(uint32_t(type), 2) + number(1, 4) + value + number(0, 4);
}

int orientation_of(const std::string& exif, const std::string& xmp = "") {
  return picture_orientation(std::as_bytes(std::span(exif)), std::as_bytes(std::span(xmp)));
}

}  // namespace

TEST_CASE("BMP: palettes are read whole, and what they lack is black") {
  std::string sixteen;
  for (int i = 0; i < 16; ++i) sixteen += {char(3 * i), char(5 * i), char(7 * i)};
  const Image core = decode_file(bmp({.header = 12, .width = 16, .bits = 4, .palette = sixteen},
                                     "\x01\x23\x45\x67\x89\xab\xcd\xef"));
  for (int i = 0; i < 16; ++i)
    CHECK(Pixels(core.row(0) + 3 * i, core.row(0) + 3 * i + 3) ==
          Pixels{uint8_t(7 * i), uint8_t(5 * i), uint8_t(3 * i)});
  const std::string two = "\1\2\3\0\4\5\6\0"s;
  CHECK(decode_file(bmp({.width = 3, .bits = 8, .colors = 2, .palette = two}, "\1\2\xff\0"s))
            .pixels == Pixels{6, 5, 4, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("BMP: rows from top to bottom if the height is negative") {
  const std::string first = "abcdef\0\0"s, second = "uvwxyz\0\0"s;
  const Image up = decode_file(bmp({.height = 2}, second + first));
  CHECK(up.pixels == Pixels{'c', 'b', 'a', 'f', 'e', 'd', 'w', 'v', 'u', 'z', 'y', 'x'});
  CHECK(same_pixels(decode_file(bmp({.height = -2}, first + second)), up));
}

TEST_CASE("BMP: 16 and 32 bits with masks, in every header that may have them") {
  const std::string white_and_green = u16(0xFFFF) + u16(0x07E0);
  const std::string masks = u32(0xF800) + u32(0x07E0) + u32(0x001F);
  for (const int header : {40, 52, 56, 64, 108, 124}) {
    CAPTURE(header);
    const Bmp b{.header = header, .bits = 16, .compression = 3, .masks = masks};
    CHECK(decode_file(bmp(b, white_and_green)).pixels == joined({kWhite, kGreen}));
  }
  // Five bits of 5 are 5 · 255 / 31, rounded down.
  CHECK(decode_file(bmp({.bits = 16}, u16(5 << 10 | 6 << 5 | 7) + u16(0))).pixels ==
        Pixels{41, 49, 57, 0, 0, 0});
  const std::string rgba = u32(0xFF) + u32(0xFF00) + u32(0xFF0000);
  CHECK(decode_file(bmp({.width = 1, .bits = 32, .compression = 3, .masks = rgba}, "\1\2\3\4"))
            .pixels == Pixels{1, 2, 3});
}

TEST_CASE("BMP: run lengths") {
  std::string palette;
  for (int i = 0; i < 16; ++i) palette += std::string(3, char(16 * i)) + '\0';
  const auto rle8 = [&](const std::string& runs) {
    return bmp(
        {.width = 4, .height = 3, .bits = 8, .compression = 1, .colors = 16, .palette = palette},
        runs);
  };
  // A run, four pixels as they are, then a jump by two columns and one row, and a run.
  const Image image = decode_file(rle8("\3\1\0\0\0\4\2\3\4\5\0\2\2\0\2\6\0\0\0\1"s), 1);
  CHECK(image.pixels == Pixels{0, 0, 96, 96, 32, 48, 64, 80, 16, 16, 16, 0});
  CHECK(mentions(message(rle8("\3\1\0\1"s)), "run lengths end after 3 of 12"));
  CHECK(mentions(message(rle8("\3\1\0"s)), "truncated"));
  const Image four = decode_file(
      bmp({.width = 5, .bits = 4, .compression = 2, .colors = 16, .palette = palette}, "\5\x12"s),
      1);
  CHECK(four.pixels == Pixels{16, 32, 16, 32, 16});
}

TEST_CASE("GIF: outside of the frame and where it is transparent, PIL's colours") {
  CHECK(decode_file(gif({}, {0, 1, 2, 3})).pixels == joined({kRed, kGreen, kBlue, kWhite}));
  CHECK(decode_file(gif({.transparent = 1}, {0, 1, 2, 3})).pixels ==
        joined({kRed, kGreen, kBlue, kWhite}));
  const Gif small{.screen_width = 2, .screen_height = 2, .left = 1, .width = 1, .height = 1};
  CHECK(decode_file(gif(small, {2})).pixels == joined({kRed, kBlue, kRed, kRed}));
  Gif with_alpha = small;
  with_alpha.transparent = 3;
  CHECK(decode_file(gif(with_alpha, {2})).pixels == joined({kWhite, kBlue, kWhite, kWhite}));
  const Gif large{.screen_width = 1, .screen_height = 1, .left = 1, .width = 1, .height = 1};
  CHECK(decode_file(gif(large, {2})).pixels == joined({kRed, kBlue}));
}

TEST_CASE("GIF: interlaced rows, and a file that ends early") {
  const Gif rows{
      .screen_width = 1, .screen_height = 5, .width = 1, .height = 5, .interlaced = true};
  // The file has rows 0, 4, 2, 1, 3.
  const std::string file = gif(rows, {0, 1, 2, 3, 0});
  CHECK(decode_file(file).pixels == joined({kRed, kWhite, kBlue, kRed, kGreen}));
  for (size_t length = 0; length + 3 < file.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(decode_file(file.substr(0, length)), Error);
  }
}

TEST_CASE("TGA: columns and rows in either order") {
  const std::string four = "\1\2\3\4"s;
  CHECK(decode_file(tga(3, 2, 2, 8, 0x00, four), 1).pixels == Pixels{3, 4, 1, 2});
  CHECK(decode_file(tga(3, 2, 2, 8, 0x10, four), 1).pixels == Pixels{4, 3, 2, 1});
  CHECK(decode_file(tga(3, 2, 2, 8, 0x20, four), 1).pixels == Pixels{1, 2, 3, 4});
  CHECK(decode_file(tga(3, 2, 2, 8, 0x30, four), 1).pixels == Pixels{2, 1, 4, 3});
  // Run lengths: three times the same, then one as it is.
  CHECK(decode_file(tga(11, 2, 2, 8, 0x20, "\x82\7\0\5"s), 1).pixels == Pixels{7, 7, 7, 5});
  CHECK(mentions(message(tga(11, 2, 2, 8, 0x20, "\x82\7\0"s)), "truncated"));
  CHECK(mentions(message(tga(3, 2, 2, 8, 0x20, "\1\2\3"s)), "truncated, 3 bytes of at least 4"));
}

TEST_CASE("PNM: bitmaps, plain text, halves to the even neighbour") {
  CHECK(decode_file("P4 9 2\n\x80\x80\x00\x00"s, 1).pixels ==
        Pixels{0, 255, 255, 255, 255, 255, 255, 255, 0,  //
               255, 255, 255, 255, 255, 255, 255, 255, 255});
  CHECK(decode_file("P1 # bits\n3 2\n1 0 1\n010", 1).pixels == Pixels{0, 255, 0, 255, 0, 255});
  CHECK(decode_file("P2 3 1 10\n1 3 # seven\n 10", 1).pixels == Pixels{26, 76, 255});
  CHECK(decode_file("P3 1 1 255\n1 2 3").pixels == Pixels{1, 2, 3});
  CHECK(mentions(message("P2 2 1 10\n1 11"), "a value of 11, the maximum is 10"));
  CHECK(mentions(message("P2 3 1 10\n1 3 "), "truncated"));
  CHECK(mentions(message("P1 2 1\n12"), "a byte 50 among its bits"));
}

TEST_CASE("JPEG: only the end marker is missing") {
  for (const int channels : {1, 3}) {
    const std::string whole =
        std::string(as_text(encode_jpeg(noise_image(32, 24, channels, 7), 90)));
    const std::string open = whole.substr(0, whole.size() - 2);
    const std::string trailer = open + std::string(100, '\x17') + "SEFT";
    for (const std::string& file : {open, trailer}) {
      CHECK(same_pixels(decode_file(file, channels), decode_file(whole, channels)));
      CHECK_FALSE(inspect_image(std::as_bytes(std::span(file)), "x").ended);
    }
    CHECK(inspect_image(std::as_bytes(std::span(whole)), "x").ended);
    for (size_t cut = 2; cut < 40; ++cut) {
      CAPTURE(cut);
      CHECK_THROWS_AS(decode_file(open.substr(0, open.size() - cut), channels), Error);
    }
  }
}

TEST_CASE("orientation: shorts and longs in both byte orders, XMP where EXIF has none") {
  for (const bool little : {false, true})
    for (const int type : {3, 4})
      for (int orientation = 1; orientation <= 8; ++orientation) {
        CHECK(orientation_of(exif(little, type, orientation)) == orientation);
        CHECK(orientation_of("Exif\0\0"s + exif(little, type, orientation)) == orientation);
      }
  const std::string xmp = "<rdf tiff:Orientation=\"6\" x>";
  CHECK(orientation_of("", xmp) == 6);
  CHECK(orientation_of("", "<tiff:Orientation>8</tiff:Orientation>") == 8);
  CHECK(orientation_of("", "tiff:Orientation=\"9\"") == 1);
  CHECK(orientation_of("", "tiff:Orientation") == 1);
  CHECK(orientation_of(exif(true, 3, 3), xmp) == 3);
}

TEST_CASE("TIFF: orientation, bits, and what is not read") {
  const std::string six = "\1\2\3\4\5\6";
  CHECK(decode_file(tiff(3, 2, six), 1).pixels == Pixels{1, 2, 3, 4, 5, 6});
  const Image turned = decode_file(tiff(3, 2, six, {{274, 3, 6}}), 1);
  CHECK(turned.width == 2);
  CHECK(turned.pixels == Pixels{4, 1, 5, 2, 6, 3});
  CHECK(decode_file(tiff(3, 1, "\x12\x34", {{258, 3, 4}}), 1).pixels == Pixels{17, 34, 51});
  CHECK(decode_file(tiff(2, 1, "\x12\x34\x56\x78", {{258, 3, 16}}), 1).pixels ==
        Pixels{0x34, 0x78});
  CHECK(decode_file(tiff(2, 1, "\x12\x34\x56", {{258, 3, 12}}), 1).pixels == Pixels{0x12, 0x45});
  CHECK(decode_file(tiff(3, 2, six, {{262, 3, 0}}), 1).pixels ==
        Pixels{254, 253, 252, 251, 250, 249});
  const std::string floats = tiff(1, 1, "\1\2\3\4", {{258, 3, 32}, {339, 3, 3}});
  CHECK(mentions(message(floats), "1 samples of 32 bits, sample format 3"));
  CHECK(mentions(message(tiff(3, 2, six, {{273, 4, 1000}})), "TIFF: "));
}

TEST_CASE("formats that are not read are named") {
  const auto named = [](const std::string& file, const std::string& format) {
    CHECK(mentions(message(file), "a.file: a " + format + " file, which is not read"));
  };
  named("\0\0\0\x1c"s + "ftypavif" + std::string(20, '\0'), "AVIF");
  named("\0\0\0\x18"s + "ftypheic" + std::string(20, '\0'), "HEIC");
  named("\0\0\0\x0c"s + "jP  \r\n\x87\n" + std::string(20, '\0'), "JPEG 2000");
  named("\xff\x4f\xff\x51"s + std::string(20, '\0'), "JPEG 2000");
  named(std::string(128, '\0') + "DICM", "DICOM");
  CHECK(mentions(message("hello, this is no picture at all"), "not an image of a known format"));
}
