#include "io/images/augment.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/data/mix.h"
#include "io/images/rand_augment.h"
#include "tests/io/images/pillow.h"
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

// A preprocessing that keeps the size: the shorter side of the image stays.
Stage crop_to(int size, int padding = 0) {
  return [=](Image& image, Rng& rng) {
    const Preprocess p{.resize_height = std::min(image.width, image.height), .crop = size};
    crop_and_resize({.crop = CropKind::random, .crop_padding = padding}, p)(image, rng);
  };
}

Stage resized_crop(int size, Interval area) {
  return crop_and_resize({.crop = CropKind::resized, .crop_area = area}, {.crop = size});
}

constexpr Augment kRecipes[] = {Augment::none, Augment::light, Augment::standard, Augment::strong};

}  // namespace

TEST_CASE("every recipe gives squares of the size, and the same ones for the same key") {
  for (const Augment recipe : kRecipes)
    for (const int channels : {1, 3})
      for (const int side : {20, 75}) {
        const auto stages =
            train_stages(preset(recipe), {.resize_height = 40, .crop = 32, .channels = channels});
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
  for (const Stage& stage : train_stages(preset(Augment::none), p)) stage(image, rng);
  CHECK(same_pixels(image, expected));
}

TEST_CASE("random crops lie in the image and reach every place") {
  std::set<int> lefts, tops;
  for (uint32_t i = 0; i < 400; ++i) {
    Image image = coordinates(12, 9);
    Rng rng = rng_of(i);
    crop_to(7)(image, rng);
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
  crop_to(4)(image, rng);
  CHECK(image.pixels == std::vector<uint8_t>{0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("random resized crops have areas and ratios in range") {
  double smallest = 1, largest = 0;
  for (uint32_t i = 0; i < 300; ++i) {
    Image image = coordinates(200, 160);
    Rng rng = rng_of(i);
    resized_crop(64, {0.2f, 0.8f})(image, rng);
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
  resized_crop(10, {1.f, 1.f})(image, rng);
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

TEST_CASE("every operation of RandAugment at every magnitude equals torchvision's on PIL images") {
  if (!has_python_module("torchvision")) return note_skipped("no Python with torchvision");
  TemporaryFolder folder;
  constexpr int kBins = 31;
  struct Case {
    Operation operation;
    int bin, sign;
    Image image;
  };
  std::vector<Case> cases;
  for (int i = 0; i < kOperations; ++i)
    for (int bin = 0; bin < kBins; ++bin)
      for (const int sign : {1, -1}) {
        const auto operation = static_cast<Operation>(i);
        if (sign < 0 && !is_signed(operation)) continue;
        const bool wide = (bin + i) % 2 == 0;
        const int channels = bin % 5 == 1 ? 1 : 3;
        Image image = wide ? noise_image(83, 50, channels, uint32_t(bin))
                           : noise_image(49, 64, channels, uint32_t(bin));
        // The range is narrow, so that stretching it changes something.
        for (uint8_t& value : image.pixels) value = uint8_t(40 + value * (100 + 3 * bin) / 255);
        cases.push_back({operation, bin, sign, std::move(image)});
      }
  std::ofstream list(folder.path() / "cases.txt");
  for (size_t i = 0; i < cases.size(); ++i) {
    const auto at = (folder.path() / std::to_string(i)).string();
    write_raw(at + ".in.raw", cases[i].image);
    list << fmt::format("{0}.in.raw|{0}.raw|randaugment|{1}|{2}|{3}\n", at,
                        to_string(cases[i].operation), cases[i].bin, cases[i].sign);
  }
  list.close();
  run_pillow("cases", folder.path());
  for (size_t i = 0; i < cases.size(); ++i) {
    Case& c = cases[i];
    INFO(to_string(c.operation) << " " << c.bin << " " << c.sign);
    apply(c.image, c.operation,
          c.sign * magnitude_of(c.operation, c.bin, kBins, c.image.width, c.image.height));
    CHECK(same_pixels(c.image, read_raw(folder.path() / fmt::format("{}.raw", i))));
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

TEST_CASE("random crops with padding reach into the padding on every side") {
  std::set<int> darks;
  for (uint32_t i = 0; i < 300; ++i) {
    Image image = gray(4, 4, std::vector<uint8_t>(16, 9));
    Rng rng = rng_of(i);
    crop_to(4, 2)(image, rng);
    REQUIRE(image.width == 4);
    const int inside = int(std::count(image.pixels.begin(), image.pixels.end(), 9));
    CHECK(inside >= 4);
    darks.insert(16 - inside);
  }
  // (4 − |x|) (4 − |y|) with |x|, |y| ≤ 2 is 16, 12, 9, 8, 6 or 4 of the image's pixels.
  CHECK(darks == std::set<int>{0, 4, 7, 8, 10, 12});
}

TEST_CASE("erasing fills one rectangle whose area and ratio are in range") {
  const Erasing erasing{.probability = 0.6f, .area = {0.1f, 0.2f}, .ratio = {0.5f, 2.f}};
  int erased = 0;
  double smallest = 1, largest = 0;
  for (uint32_t i = 0; i < 500; ++i) {
    Image image(60, 40, 3);
    std::fill(image.pixels.begin(), image.pixels.end(), uint8_t{255});
    Rng rng = rng_of(i);
    random_erasing(erasing, {1, 2, 3})(image, rng);
    int left = 60, right = -1, top = 40, bottom = -1, count = 0;
    for (int y = 0; y < 40; ++y)
      for (int x = 0; x < 60; ++x) {
        const uint8_t* pixel = image.row(y) + 3 * x;
        if (pixel[0] == 255) continue;
        CHECK((pixel[0] == 1 && pixel[1] == 2 && pixel[2] == 3));
        ++count;
        left = std::min(left, x), right = std::max(right, x);
        top = std::min(top, y), bottom = std::max(bottom, y);
      }
    if (count == 0) continue;
    ++erased;
    CHECK(count == (right - left + 1) * (bottom - top + 1));
    const double area = count / 2400.0, ratio = double(bottom - top + 1) / (right - left + 1);
    smallest = std::min(smallest, area), largest = std::max(largest, area);
    CHECK(ratio > 0.45);
    CHECK(ratio < 2.2);
  }
  CHECK(std::abs(erased - 300) < 50);  // 4.5 standard deviations
  CHECK(smallest > 0.09);
  CHECK(smallest < 0.11);
  CHECK(largest > 0.19);
  CHECK(largest < 0.21);
}

TEST_CASE("the recipe applies RandAugment and erasing, with the mean as the colour") {
  AugmentConfig config{.erasing = {.probability = 1}};
  const Preprocess p{.resize_height = 32, .crop = 32, .mean = {0.1f, 0.5f, 1.f}};
  Image image(32, 32, 3);
  Rng rng = rng_of(4);
  for (const Stage& stage : train_stages(config, p)) stage(image, rng);
  std::set<std::array<int, 3>> colors;
  for (size_t i = 0; i < image.pixels.size(); i += 3)
    colors.insert({image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]});
  CHECK(colors == std::set<std::array<int, 3>>{{{0, 0, 0}, {26, 128, 255}}});

  config = {.rand_augment = {.operations = 2}};
  const Image original = noise_image(32, 32, 3, 1);
  int changed = 0;
  for (uint32_t i = 0; i < 50; ++i) {
    Image one = original, same = original;
    Rng a = rng_of(i), b = rng_of(i);
    for (const Stage& stage : train_stages(config, p)) stage(one, a), stage(same, b);
    CHECK(same_pixels(one, same));
    changed += !same_pixels(one, original);
  }
  CHECK(changed > 40);  // identity twice, or a step that changes nothing, is rare
}

TEST_CASE("what comes from a pack is cropped as what was resized on the way") {
  const Preprocess p{.resize_height = 40, .crop = 32};
  const Image original = noise_image(70, 52, 3, 2), packed = resize(original, p);
  for (const Augment recipe : {Augment::none, Augment::light})
    for (uint32_t i = 0; i < 5; ++i) {
      Image image = original, other = packed;
      Rng a = rng_of(i), b = rng_of(i);
      for (const Stage& stage : train_stages(preset(recipe), p)) stage(image, a);
      for (const Stage& stage : train_stages(preset(recipe), p)) stage(other, b);
      CHECK(same_pixels(image, other));
    }
}

TEST_CASE("mixing pairs the samples of a batch from both ends, alike for the whole batch") {
  const Mixing mixing{
      .mixup = 0.2f, .cutmix = 1.f, .probability = 0.8f, .switch_probability = 0.4f};
  int mixed = 0, cut = 0;
  double shares = 0;
  for (uint32_t i = 0; i < 2000; ++i) {
    const auto mixes = sample_mixes(mixing, {.seed = 5, .epoch = 2, .position = i}, 7, 24, 32);
    REQUIRE(mixes.size() == 7);
    const Mix& first = mixes[0];
    for (int k = 0; k < 7; ++k) {
      const Mix& m = mixes[size_t(k)];
      CHECK(m.partner == 6 - k);
      CHECK(m.share == first.share);
      CHECK((m.left == first.left && m.top == first.top));
      CHECK((m.right == first.right && m.bottom == first.bottom));
    }
    CHECK((first.share >= 0 && first.share <= 1));
    CHECK((first.left >= 0 && first.left <= first.right && first.right <= 32));
    CHECK((first.top >= 0 && first.top <= first.bottom && first.bottom <= 24));
    const int area = (first.right - first.left) * (first.bottom - first.top);
    if (area > 0) CHECK(first.share == doctest::Approx(1 - area / (24.0 * 32)));
    mixed += first.share < 1;
    cut += area > 0;
    if (area == 0) shares += first.share < 1 ? first.share : 0;
  }
  // A box of no pixels and a share that rounds to 1 count as not mixed: a few of a hundred.
  CHECK(mixed > 1450);
  CHECK(mixed < 1680);
  CHECK(cut > 500);
  CHECK(cut < 720);
  CHECK(shares / (mixed - cut) == doctest::Approx(0.5).epsilon(0.1));  // Beta(α, α) is symmetric
  const auto again = sample_mixes(mixing, {.seed = 5, .epoch = 2, .position = 3}, 7, 24, 32);
  const auto once = sample_mixes(mixing, {.seed = 5, .epoch = 2, .position = 3}, 7, 24, 32);
  CHECK(again[0].share == once[0].share);
  CHECK(sample_mixes({}, {.seed = 5}, 3, 24, 32)[1].share == 1);
}

TEST_CASE("Beta numbers have the mean and variance of the distribution") {
  for (const double alpha : {0.05, 0.2, 1.0, 4.0}) {
    Rng rng = rng_of(77);
    constexpr int kCount = 40000;
    double sum = 0, squares = 0;
    for (int i = 0; i < kCount; ++i) {
      const double x = sample_beta(alpha, rng);
      REQUIRE((x >= 0 && x <= 1));
      sum += x, squares += x * x;
    }
    const double mean = sum / kCount, variance = squares / kCount - mean * mean;
    INFO(alpha);
    CHECK(mean == doctest::Approx(0.5).epsilon(0.02));
    CHECK(variance == doctest::Approx(0.25 / (2 * alpha + 1)).epsilon(0.04));
  }
}

TEST_CASE("numbers out of range are refused by name") {
  CHECK_THROWS_WITH_AS(check({.horizontal_flip = 2}), doctest::Contains("horizontal flip 2"),
                       Error);
  CHECK_THROWS_WITH_AS(check({.rand_augment = {.operations = 1, .magnitude = 31}}),
                       doctest::Contains("magnitude 31"), Error);
  CHECK_THROWS_WITH_AS(check({.blur = {.kernel = 4}}), doctest::Contains("odd"), Error);
  CHECK_THROWS_WITH_AS(check({.erasing = {.area = {0.5f, 0.1f}}}), doctest::Contains("erased area"),
                       Error);
  for (const Augment recipe : kRecipes) CHECK_NOTHROW(check(preset(recipe)));
  CHECK(describe(preset(Augment::light)) == "random crop, horizontal flip 0.5");
}

TEST_CASE("recipes by name") {
  for (const Augment recipe : kRecipes) CHECK(parse_augment(to_string(recipe)) == recipe);
  CHECK_THROWS_AS(parse_augment("wild"), Error);
}
