#include "io/images/resize.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/images/decode.h"
#include "io/images/preprocess.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr Interpolation kBoth[] = {Interpolation::bilinear, Interpolation::bicubic};

struct Case {
  Image input;
  std::string source;  // what pillow.py reads
  int width, height;
  Interpolation interpolation;
};

// Compares our pictures with PIL's, byte for byte.
void compare_with_pillow(const std::vector<Case>& cases, const std::filesystem::path& folder) {
  std::ofstream list(folder / "cases.txt");
  for (size_t i = 0; i < cases.size(); ++i)
    list << fmt::format("{}|{}/{}.raw|resize|{}|{}|{}\n", cases[i].source, folder.string(), i,
                        cases[i].width, cases[i].height, to_string(cases[i].interpolation));
  list.close();
  run_pillow("cases", folder);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    INFO(c.source << " " << c.input.width << "x" << c.input.height << " to " << c.width << "x"
                  << c.height << " " << to_string(c.interpolation));
    CHECK(same_pixels(resize(c.input, c.width, c.height, c.interpolation),
                      read_raw(folder / fmt::format("{}.raw", i))));
  }
}

}  // namespace

TEST_CASE("resizing equals the stored results of PIL") {
  std::ifstream file(ENGINE_SOURCE_DIR "/tests/golden/resize.bin", std::ios::binary);
  struct {
    int32_t seed, source_width, source_height, width, height, channels, bicubic;
  } header;
  int cases = 0;
  for (; file.read(reinterpret_cast<char*>(&header), sizeof header); ++cases) {
    Image theirs(header.width, header.height, header.channels);
    file.read(reinterpret_cast<char*>(theirs.pixels.data()), std::streamsize(theirs.pixels.size()));
    const Image input = noise_image(header.source_width, header.source_height, header.channels,
                                    uint32_t(header.seed));
    INFO("case " << cases);
    CHECK(same_pixels(resize(input, header.width, header.height, kBoth[header.bicubic]), theirs));
  }
  CHECK(cases == 44);
}

TEST_CASE("resizing equals PIL on odd sizes") {
  if (!has_python_module("PIL")) return note_skipped("no Python with PIL");
  TemporaryFolder folder;
  const int sizes[][2] = {{1, 1},     {1, 9},   {9, 1},    {2, 2},    {3, 5},   {5, 3},
                          {16, 16},   {17, 31}, {63, 65},  {100, 1},  {1, 100}, {97, 211},
                          {224, 224}, {301, 7}, {13, 409}, {333, 257}};
  std::vector<Case> cases;
  uint32_t seed = 0;
  for (const auto& from : sizes) {
    for (const int channels : {1, 3}) {
      const Image input = noise_image(from[0], from[1], channels, ++seed);
      const auto source = folder.path() / fmt::format("in{}.raw", seed);
      write_raw(source, input);
      for (const auto& to : sizes)
        for (const Interpolation interpolation : kBoth)
          cases.push_back({input, source.string(), to[0], to[1], interpolation});
    }
  }
  compare_with_pillow(cases, folder.path());
}

TEST_CASE("decoding and resizing equal PIL on 200 photographs") {
  const auto data = test_data();
  if (!data) return note_skipped("no test data");
  if (!has_python_module("PIL")) return note_skipped("no Python with PIL");
  auto files = photographs(*data / "cattle_sample", 55);
  for (auto& path : photographs(*data / "ham10000_224", 200 - files.size())) files.push_back(path);
  CHECK(files.size() == 200);
  TemporaryFolder folder;
  std::vector<Case> cases;
  for (const auto& path : files) {
    const Image image = read_image(path, 3);
    const int shorter = std::min(image.width, image.height);
    const auto scaled = [&](int side, int size) { return int(int64_t{side} * size / shorter); };
    const std::string source = path.string();
    cases.push_back({image, source, image.width, image.height, Interpolation::bilinear});
    cases.push_back({image, source, scaled(image.width, 256), scaled(image.height, 256),
                     Interpolation::bilinear});
    cases.push_back({image, source, 224, 224, Interpolation::bilinear});
    cases.push_back({image, source, scaled(image.width, 320), scaled(image.height, 320),
                     Interpolation::bicubic});
    cases.push_back({image, source, 64, 64, Interpolation::bicubic});
  }
  compare_with_pillow(cases, folder.path());
}

TEST_CASE("a window of a resized part, from no more pixels than it says it reads") {
  Rng rng({.seed = 1, .purpose = purpose("windows")});
  const auto draw = [&](int least, int most) {
    return least + int(rng.below(uint32_t(most - least + 1)));
  };
  for (int round = 0; round < 400; ++round) {
    const int channels = round % 3 == 0 ? 1 : 3;
    const auto interpolation = round % 2 ? Interpolation::bilinear : Interpolation::bicubic;
    const Image picture = noise_image(draw(1, 60), draw(1, 60), channels, uint32_t(round));
    Resampling s{};
    s.source.left = draw(0, picture.width - 1), s.source.top = draw(0, picture.height - 1);
    s.source.width = draw(1, picture.width - s.source.left);
    s.source.height = draw(1, picture.height - s.source.top);
    s.width = round % 5 == 0 ? s.source.width : draw(1, 70);
    s.height = round % 7 == 0 ? s.source.height : draw(1, 70);
    s.window = {draw(-9, s.width), draw(-9, s.height), draw(1, 50), draw(1, 50)};
    const Image source =
        crop(picture, s.source.left, s.source.top, s.source.width, s.source.height);
    const Image expected = crop(resize(source, s.width, s.height, interpolation), s.window.left,
                                s.window.top, s.window.width, s.window.height);
    REQUIRE(same_pixels(resample(view_of(picture), 0, 0, s, interpolation), expected));
    const CropWindow read = pixels_read(s, interpolation);
    const Image part = crop(picture, read.left, read.top, read.width, read.height);
    REQUIRE(same_pixels(resample(view_of(part), read.left, read.top, s, interpolation), expected));
  }
}

TEST_CASE("the shorter side becomes the size, the longer one is cut to an integer") {
  const Image wide = resize_shorter(noise_image(31, 20, 3, 1), 13, Interpolation::bilinear);
  CHECK(wide.width == 20);  // 13 · 31 / 20 = 20.15
  CHECK(wide.height == 13);
  const Image tall = resize_shorter(noise_image(20, 39, 1, 1), 10, Interpolation::bicubic);
  CHECK(tall.width == 10);
  CHECK(tall.height == 19);  // 19.5
}

TEST_CASE("interpolations by name") {
  for (const Interpolation i : kBoth) CHECK(parse_interpolation(to_string(i)) == i);
  CHECK_THROWS_AS(parse_interpolation("lanczos"), Error);
}
