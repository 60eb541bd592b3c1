#include "io/images/decode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/images/encode.h"
#include "io/images/exif.h"
#include "io/images/preprocess.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::string_view text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

Bytes file_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return bytes_of(std::string(std::istreambuf_iterator<char>(stream), {}));
}

// A picture that JPEG keeps well, and whose corners differ.
Image ramp(int width, int height, int channels) {
  Image image(width, height, channels);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        image.row(y)[x * channels + c] = uint8_t(c == 0   ? 255 * x / width
                                                 : c == 1 ? 255 * y / height
                                                          : 128);
  return image;
}

int largest_difference(const Image& a, const Image& b) {
  REQUIRE(a.pixels.size() == b.pixels.size());
  int worst = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i)
    worst = std::max(worst, std::abs(int(a.pixels[i]) - int(b.pixels[i])));
  return worst;
}

void expect_data_error(const Bytes& file, std::string_view what) {
  INFO(what);
  try {
    decode(file, "bad.file", 3);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.kind == Failure::data);
    CHECK(std::string(error.what()).starts_with("bad.file: "));
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
  }
}

// The file with another width and height in its JPEG frame header or its PNG header.
Bytes claim_size(Bytes file, std::string_view kind, int width, int height) {
  const auto put = [&](size_t at, int value, int count) {
    for (int i = 0; i < count; ++i) file[at + size_t(i)] = std::byte(value >> 8 * (count - 1 - i));
  };
  if (kind == "png") return put(16, width, 4), put(20, height, 4), file;
  const std::byte start_of_frame[] = {std::byte{0xFF}, std::byte{0xC0}};
  const auto frame =
      std::search(file.begin(), file.end(), std::begin(start_of_frame), std::end(start_of_frame));
  REQUIRE(frame != file.end());
  const size_t at = size_t(frame - file.begin());
  return put(at + 5, height, 2), put(at + 7, width, 2), file;
}

Bytes exif_payload(bool little, int orientation) {
  const auto u16 = [&](int v) {
    return little ? std::string{char(v), char(v >> 8)} : std::string{char(v >> 8), char(v)};
  };
  const auto u32 = [&](int v) { return little ? u16(v) + u16(v >> 16) : u16(v >> 16) + u16(v); };
  return bytes_of(std::string("Exif\0\0", 6) + (little ? "II" : "MM") + u16(42) + u32(8) + u16(2) +
                  u16(0x010F) + u16(2) + u32(1) + u32(0) + u16(0x0112) + u16(3) + u32(1) +
                  u16(orientation) + u16(0));
}

}  // namespace

TEST_CASE("PNG keeps every pixel, JPEG nearly") {
  for (const int channels : {1, 3}) {
    const Image noise = noise_image(37, 23, channels, 5), soft = ramp(64, 48, channels);
    CHECK(same_pixels(decode(encode_png(noise), "a.png", channels), noise));
    CHECK(largest_difference(decode(encode_jpeg(soft, 95), "a.jpg", channels), soft) <= 6);
  }
}

TEST_CASE("files of every kind equal PIL") {
  if (!has_python_module("PIL")) return note_skipped("no Python with PIL");
  TemporaryFolder folder;
  run_pillow("corpus", folder.path());
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    const auto path = entry.path();
    if (path.extension() == ".raw") continue;
    INFO(path.filename().string());
    CHECK(same_pixels(read_image(path, 3), read_raw(path.string() + ".raw")));
    CHECK(same_pixels(read_image(path, 1), read_raw(path.string() + ".gray.raw")));
    ++files;
  }
  CHECK(files == 90);
}

TEST_CASE("a part has the pixels of the whole picture, and what is damaged after it is noticed") {
  std::vector<std::pair<std::string, Bytes>> files;
  TemporaryFolder folder;
  if (has_python_module("PIL")) {
    run_pillow("corpus", folder.path());
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      if (entry.path().extension() != ".raw")
        files.emplace_back(entry.path().filename().string(), file_bytes(entry.path()));
  }
  for (const int channels : {1, 3})
    files.emplace_back("ramp", encode_jpeg(noise_image(157, 101, channels, 4), 90));
  Rng rng({.seed = 1, .purpose = purpose("parts")});
  for (const auto& [name, file] : files)
    for (const int channels : {1, 3})
      for (const int reduce_to : {0, 20}) {
        const Image whole = decode(file, name, channels, {.reduce_to = reduce_to});
        for (int round = 0; round < 25; ++round) {
          CropWindow wanted{};
          const DecodedPart part = decode_part(
              file, name, channels, {.reduce_to = reduce_to}, [&](int width, int height) {
                wanted.left = int(rng.below(uint32_t(width)));
                wanted.top = int(rng.below(uint32_t(height)));
                wanted.width = 1 + int(rng.below(uint32_t(width - wanted.left)));
                wanted.height = 1 + int(rng.below(uint32_t(height - wanted.top)));
                return wanted;
              });
          INFO(name << " " << reduce_to << ": " << wanted.left << " " << wanted.top << " "
                    << wanted.width << " " << wanted.height);
          REQUIRE(part.width == whole.width);
          REQUIRE(part.height == whole.height);
          const Image ours = crop(part.image, wanted.left - part.left, wanted.top - part.top,
                                  wanted.width, wanted.height);
          REQUIRE(
              same_pixels(ours, crop(whole, wanted.left, wanted.top, wanted.width, wanted.height)));
        }
      }
  Bytes cut = files.back().second;
  cut.resize(cut.size() * 3 / 4);
  const auto first_row = [](int, int) { return CropWindow{20, 3, 5, 1}; };
  CHECK_THROWS_AS(decode_part(cut, "cut", 3, {}, first_row), Error);
}

TEST_CASE("a file cut anywhere is an error that names it") {
  const Image image = noise_image(40, 30, 3, 1);
  for (const Bytes& file : {encode_jpeg(image, 90), encode_png(image)})
    for (size_t length = 0; length < file.size(); length += 1 + file.size() / 61)
      expect_data_error({file.begin(), file.begin() + std::ptrdiff_t(length)},
                        fmt::format("{} bytes", length));
  if (!has_python_module("PIL")) return note_skipped("cut BMP, GIF, TGA, PNM: no Python with PIL");
  TemporaryFolder folder;
  run_pillow("corpus", folder.path());
  for (const char* name : {"rgb.bmp", "palette.bmp", "rgb.gif", "rgb.ppm", "gray.pgm",
                           "progressive.jpg", "cmyk.jpg"}) {
    const Bytes file = file_bytes(folder.path() / name);
    for (const size_t length :
         {size_t{1}, size_t{2}, size_t{9}, size_t{20}, file.size() / 2, file.size() - 20})
      expect_data_error({file.begin(), file.begin() + std::ptrdiff_t(length)},
                        fmt::format("{} cut to {}", name, length));
  }
  for (const char* name : {"rgb.tga", "rle.tga"}) {
    const Bytes file = file_bytes(folder.path() / name);
    expect_data_error({file.begin(), file.begin() + std::ptrdiff_t(file.size() / 2)}, name);
  }
}

TEST_CASE("a flipped bit in a PNG file is noticed") {
  const Bytes good = encode_png(noise_image(20, 20, 3, 2));
  for (size_t at = 8; at < good.size(); at += 7) {
    Bytes bad = good;
    bad[at] ^= std::byte{4};
    expect_data_error(bad, fmt::format("byte {}", at));
  }
}

TEST_CASE("no damaged file crashes or reads beyond its end") {
  const Image image = noise_image(24, 17, 3, 3);
  uint32_t seed = 1;
  for (const Bytes& good : {encode_jpeg(image, 60), encode_png(image), exif_payload(true, 6),
                            bytes_of("P6 3 2 255\nabcdefghijklmnopqr")}) {
    for (int trial = 0; trial < 400; ++trial) {
      Bytes bad = good;
      for (int flips = 0; flips < 3; ++flips) {
        seed = seed * 1664525u + 1013904223u;
        bad[seed % bad.size()] = std::byte(seed >> 24);
      }
      exif_orientation(bad);
      try {
        const Image out = decode(bad, "damaged", 3);
        CHECK(out.pixels.size() == size_t(out.width) * size_t(out.height) * 3);
      } catch (const Error& error) {
        CHECK(error.kind == Failure::data);
      }
    }
  }
}

TEST_CASE("oversized pictures are refused by their header") {
  const Image image = noise_image(16, 16, 3, 4);
  expect_data_error(claim_size(encode_jpeg(image, 90), "jpeg", 60000, 60000), "jpeg");
  expect_data_error(claim_size(encode_png(image), "png", 60000, 60000), "png");
  expect_data_error(claim_size(encode_png(image), "png", 70000, 1), "a side too long");
  expect_data_error(bytes_of("P5 60000 60000 255\n"), "pnm");
  expect_data_error(bytes_of("P5 0 7 255\n"), "no pixels");
}

TEST_CASE("what is no image is an error") {
  expect_data_error({}, "empty");
  expect_data_error(bytes_of("hello, this is no picture at all"), "text");
  expect_data_error(bytes_of("P6 x"), "no number");
  expect_data_error(bytes_of("P5 2 2 70000\n1234"), "maximum");
  CHECK_THROWS_AS(read_image("/nonexistent/a.jpg", 3), Error);
  CHECK_THROWS_AS(read_image("/", 3), Error);
}

TEST_CASE("PNM: comments, other maxima, 16 bits") {
  const Image plain = decode(bytes_of("P5 # two\n2 1\n# max\n15\n\x0f\x05"), "a.pgm", 1);
  CHECK(plain.pixels == std::vector<uint8_t>{255, 85});
  const Image wide =
      decode(bytes_of(std::string_view("P5 2 1 65535\n\x80\x00\xff\xff", 17)), "a.pgm", 1);
  CHECK(wide.pixels == std::vector<uint8_t>{128, 255});
}

TEST_CASE("EXIF orientation in both byte orders") {
  for (const bool little : {true, false})
    for (int orientation = 1; orientation <= 8; ++orientation) {
      const Bytes payload = exif_payload(little, orientation);
      CHECK(exif_orientation(payload) == orientation);
      for (size_t length = 0; length < payload.size() - 2; ++length)
        CHECK(picture_orientation(std::span(payload).first(length), {}) >= 1);
    }
  CHECK(exif_orientation(exif_payload(true, 0)) == 1);
  CHECK(exif_orientation(exif_payload(false, 9)) == 1);
}

TEST_CASE("turning upright") {
  Image image(3, 2, 1);
  image.pixels = {1, 2, 3, 4, 5, 6};
  CHECK(upright(image, 2).pixels == std::vector<uint8_t>{3, 2, 1, 6, 5, 4});
  CHECK(upright(image, 3).pixels == std::vector<uint8_t>{6, 5, 4, 3, 2, 1});
  CHECK(upright(image, 6).pixels == std::vector<uint8_t>{4, 1, 5, 2, 6, 3});
  CHECK(upright(image, 6).width == 2);
  CHECK(upright(image, 8).pixels == std::vector<uint8_t>{3, 6, 2, 5, 1, 4});
}

TEST_CASE("reduced decoding keeps the shorter side at least as asked") {
  const Bytes file = encode_jpeg(ramp(200, 120, 3), 90);
  const auto height = [&](int reduce_to) {
    return decode(file, "a.jpg", 3, {.reduce_to = reduce_to}).height;
  };
  CHECK(height(0) == 120);
  CHECK(height(61) == 120);
  CHECK(height(60) == 60);
  CHECK(height(30) == 30);
  CHECK(height(10) == 15);
}
