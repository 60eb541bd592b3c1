#include "io/augment.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "tests/io/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

Rng rng_of(uint32_t position) {
  return Rng({.seed = 3, .epoch = 1, .position = position, .purpose = purpose("augment")});
}

// Pixel (x, y) holds x and y, so that a crop shows where it was taken.
Image coordinates(int width, int height) {
  Image image(width, height, 3);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      image.row(y)[3 * x] = uint8_t(x);
      image.row(y)[3 * x + 1] = uint8_t(y);
      image.row(y)[3 * x + 2] = 255;
    }
  return image;
}

Image gray(int width, int height, std::vector<uint8_t> pixels) {
  Image image(width, height, 1);
  image.pixels = std::move(pixels);
  return image;
}

constexpr Augment kRecipes[] = {Augment::none, Augment::light, Augment::standard, Augment::strong};

}  // namespace

TEST_CASE("every recipe gives squares of the size, and the same ones for the same key") {
  for (const Augment recipe : kRecipes)
    for (const int channels : {1, 3})
      for (const int side : {20, 75}) {
        const auto stages =
            train_stages(recipe, {.resize_height = 40, .crop = 32, .channels = channels});
        const Image original = noise_image(side, 51, channels, 9);
        const auto run = [&](uint32_t position) {
          Image image = original;
          Rng rng = rng_of(position);
          for (const Stage& stage : stages) stage(image, rng);
          return image;
        };
        INFO(to_string(recipe) << " " << channels << " " << side);
        CHECK(run(1).width == 32);
        CHECK(run(1).height == 32);
        CHECK(run(1).channels == channels);
        CHECK(same_pixels(run(1), run(1)));
        int different = 0;
        for (uint32_t position = 2; position < 12; ++position)
          different += !same_pixels(run(1), run(position));
        CHECK((recipe == Augment::none ? different == 0 : different >= 8));
      }
}

TEST_CASE("the recipe without augmentation is the evaluation transform") {
  const Preprocess p{.resize_height = 40, .interpolation = Interpolation::bicubic, .crop = 33};
  Image image = noise_image(70, 52, 3, 1);
  const Image expected = evaluate_transform(image, p);
  Rng rng = rng_of(0);
  for (const Stage& stage : train_stages(Augment::none, p)) stage(image, rng);
  CHECK(same_pixels(image, expected));
}

TEST_CASE("random crops lie in the image and reach every place") {
  std::set<int> lefts, tops;
  for (uint32_t i = 0; i < 400; ++i) {
    Image image = coordinates(12, 9);
    Rng rng = rng_of(i);
    random_crop(7)(image, rng);
    const int left = image.pixels[0], top = image.pixels[1];
    CHECK(same_pixels(image, crop(coordinates(12, 9), left, top, 7, 7)));
    lefts.insert(left), tops.insert(top);
  }
  CHECK(lefts.size() == 6);
  CHECK(tops.size() == 3);
}

TEST_CASE("a crop larger than the image pads evenly with zeros") {
  Image image = gray(1, 2, {7, 8});
  Rng rng = rng_of(0);
  random_crop(4)(image, rng);
  CHECK(image.pixels == std::vector<uint8_t>{0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("random resized crops have areas and ratios in range") {
  double smallest = 1, largest = 0;
  for (uint32_t i = 0; i < 300; ++i) {
    Image image = coordinates(200, 160);
    Rng rng = rng_of(i);
    random_resized_crop(64, Interpolation::bilinear, {0.2f, 0.8f})(image, rng);
    // The slope of the coordinates over the output gives the window back.
    const auto extent = [&](int channel, int last) {
      return (image.pixels[size_t(last + channel)] - image.pixels[size_t(channel)]) * 64.0 / 63.0;
    };
    const double width = extent(0, 3 * 63), height = extent(1, 3 * 64 * 63);
    const double area = width * height / (200 * 160);
    smallest = std::min(smallest, area), largest = std::max(largest, area);
    CHECK(width / height > 0.72);
    CHECK(width / height < 1.39);
  }
  CHECK(smallest > 0.17);
  CHECK(smallest < 0.25);
  CHECK(largest > 0.7);
  CHECK(largest < 0.83);
}

TEST_CASE("an image too narrow for the ratio is cropped centrally") {
  Image image = coordinates(200, 10);
  Rng rng = rng_of(0);
  random_resized_crop(10, Interpolation::bilinear, {1.f, 1.f})(image, rng);
  CHECK(image.pixels[0] >= 93);  // (200 − round(10 · 4/3)) / 2
  CHECK(image.pixels[0] <= 94);
}

TEST_CASE("flips, and how often") {
  Image image = gray(3, 2, {1, 2, 3, 4, 5, 6});
  flip_horizontal(image);
  CHECK(image.pixels == std::vector<uint8_t>{3, 2, 1, 6, 5, 4});
  flip_vertical(image);
  CHECK(image.pixels == std::vector<uint8_t>{6, 5, 4, 3, 2, 1});
  int flipped = 0;
  for (uint32_t i = 0; i < 2000; ++i) {
    Image pair = gray(2, 1, {0, 1});
    Rng rng = rng_of(i);
    random_horizontal_flip(0.3f)(pair, rng);
    flipped += pair.pixels[0];
  }
  CHECK(std::abs(flipped - 600) < 90);  // 4.4 standard deviations
}

TEST_CASE("warps: quarter turns are exact, shifts and scales go where they should") {
  Image image = gray(3, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  const Image original = image;
  warp(image, {});
  CHECK(same_pixels(image, original));
  warp(image, {.angle = 90});
  CHECK(image.pixels == std::vector<uint8_t>{3, 6, 9, 2, 5, 8, 1, 4, 7});
  image = original;
  warp(image, {.translate_x = 1 / 3.f, .translate_y = -1 / 3.f});
  CHECK(image.pixels == std::vector<uint8_t>{0, 4, 5, 0, 7, 8, 0, 0, 0});
  image = original;
  warp(image, {.scale = 2});
  CHECK(image.pixels[4] == 5);
  CHECK(image.pixels[5] == 6);  // halfway from 5 to 6 rounds up
  image = original;
  warp(image, {.shear = 45});
  CHECK(image.pixels == std::vector<uint8_t>{2, 3, 0, 4, 5, 6, 0, 7, 8});
}

TEST_CASE("blur keeps the sum and spreads a point evenly") {
  Image image(9, 9, 1);
  image.row(4)[4] = 200;
  blur(image, 5, 1.f);
  CHECK(image.row(4)[4] > image.row(4)[5]);
  CHECK(image.row(4)[5] == image.row(3)[4]);
  CHECK(image.row(4)[7] == 0);
  int sum = 0;
  for (const uint8_t value : image.pixels) sum += value;
  CHECK(std::abs(sum - 200) <= 12);  // 25 roundings
}

TEST_CASE("colour edits equal torchvision's on PIL images") {
  if (!has_python_module("torchvision")) return note_skipped("no Python with torchvision");
  TemporaryFolder folder;
  const Jitter edits[] = {{1, 1, 1, 0},
                          {0.3f, 1, 1, 0},
                          {1.7f, 1, 1, 0},
                          {1, 0, 1, 0},
                          {1, 0.55f, 1, 0},
                          {1, 1.9f, 1, 0},
                          {1, 1, 0, 0},
                          {1, 1, 0.4f, 0},
                          {1, 1, 1.6f, 0},
                          {1, 1, 1, 0.1f},
                          {1, 1, 1, -0.37f},
                          {1, 1, 1, 0.5f},
                          {0.8f, 1.2f, 0.7f, -0.05f}};
  std::ofstream list(folder.path() / "cases.txt");
  std::vector<Image> inputs;
  for (const int channels : {1, 3})
    for (const auto& e : edits) {
      const size_t i = inputs.size();
      inputs.push_back(noise_image(150, 140, channels, uint32_t(i)));
      const auto at = (folder.path() / std::to_string(i)).string();
      write_raw(at + ".in.raw", inputs[i]);
      list << fmt::format("{0}.in.raw|{0}.raw|jitter|{1}|{2}|{3}|{4}\n", at, e.brightness,
                          e.contrast, e.saturation, e.hue);
    }
  list.close();
  run_pillow("cases", folder.path());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Jitter& e = edits[i % std::size(edits)];
    INFO(inputs[i].channels << ": " << e.brightness << " " << e.contrast << " " << e.saturation
                            << " " << e.hue);
    adjust_brightness(inputs[i], e.brightness);
    adjust_contrast(inputs[i], e.contrast);
    adjust_saturation(inputs[i], e.saturation);
    adjust_hue(inputs[i], e.hue);
    CHECK(same_pixels(inputs[i], read_raw(folder.path() / fmt::format("{}.raw", i))));
  }
}

TEST_CASE("colour jitter stays within its bounds and uses them") {
  int darkest = 255, brightest = 0;
  for (uint32_t i = 0; i < 200; ++i) {
    Image image = gray(1, 1, {100});
    Rng rng = rng_of(i);
    color_jitter({.brightness = 0.4f})(image, rng);
    darkest = std::min<int>(darkest, image.pixels[0]);
    brightest = std::max<int>(brightest, image.pixels[0]);
  }
  CHECK(darkest >= 59);
  CHECK(darkest < 66);
  CHECK(brightest <= 140);
  CHECK(brightest > 134);
}

TEST_CASE("recipes by name") {
  for (const Augment recipe : kRecipes) CHECK(parse_augment(to_string(recipe)) == recipe);
  CHECK_THROWS_AS(parse_augment("wild"), Error);
}
