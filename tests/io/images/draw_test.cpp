#include "io/images/draw.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/data/dataset.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

Rng numbers(uint32_t position) {
  return Rng({.seed = 5, .position = position});
}

using Colour = std::array<double, 3>;

Colour mean_colour(const Image& image) {
  Colour sum{};
  for (size_t i = 0; i < image.pixels.size(); ++i) sum[i % 3] += image.pixels[i];
  for (double& c : sum) c /= image.width * image.height;
  return sum;
}

double squared_distance(const Colour& a, const Colour& b) {
  double sum = 0;
  for (int c = 0; c < 3; ++c) sum += (a[c] - b[c]) * (a[c] - b[c]);
  return sum;
}

// The name and the content of every file below a folder.
std::map<std::string, std::string> content(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    files[fs::relative(entry.path(), folder).string()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return files;
}

}  // namespace

TEST_CASE("digits are white on black, in the picture, and differ") {
  for (int digit = 0; digit < 10; ++digit)
    for (uint32_t i = 0; i < 20; ++i) {
      Rng rng = numbers(10 * i + digit), again = numbers(10 * i + digit);
      const Image image = draw_digit(rng, digit);
      REQUIRE(image.width == 28);
      REQUIRE(image.height == 28);
      REQUIRE(image.channels == 1);
      CHECK(image.pixels == draw_digit(again, digit).pixels);
      CHECK(image.pixels != draw_digit(rng, digit).pixels);
      CHECK(std::ranges::max(image.pixels) > 110);
      double ink = 0, rim = 0;
      for (int y = 0; y < 28; ++y)
        for (int x = 0; x < 28; ++x) {
          ink += image.row(y)[x];
          if (x == 0 || y == 0 || x == 27 || y == 27) rim += image.row(y)[x];
        }
      CHECK(ink / (784 * 255) > 0.015);  // a thin, dim, small "1"
      CHECK(ink / (784 * 255) < 0.45);
      CHECK(rim < 0.1 * ink);  // the stroke stays inside, noise reaches the rim
    }
}

TEST_CASE("objects cannot be told by their mean colour") {
  // Each of 50 images a class is given to the nearest of the mean colours of 50 others a class;
  // chance would find 10%.
  constexpr uint32_t kPerClass = 50;
  std::array<Colour, 10> mean{};
  for (uint32_t i = 0; i < 10 * kPerClass; ++i) {
    Rng rng = numbers(i);
    const Colour colour = mean_colour(draw_object(rng, i % 10, 64));
    for (int c = 0; c < 3; ++c) mean[i % 10][c] += colour[c] / kPerClass;
  }
  int correct = 0;
  for (uint32_t i = 0; i < 10 * kPerClass; ++i) {
    Rng rng = numbers(100'000 + i);
    const Colour colour = mean_colour(draw_object(rng, i % 10, 64));
    const auto nearest = std::ranges::min_element(
        mean, {}, [&](const Colour& m) { return squared_distance(m, colour); });
    correct += nearest - mean.begin() == static_cast<int>(i % 10);
  }
  MESSAGE("nearest mean colour: ", correct, " of 500");
  CHECK(correct < 100);
}

TEST_CASE("objects have the size asked for and come again from the same numbers") {
  for (int size : {32, 64, 224})
    for (int object = 0; object < 10; ++object) {
      Rng rng = numbers(object), again = numbers(object);
      const Image image = draw_object(rng, object, size);
      CHECK(image.width == size);
      CHECK(image.height == size);
      CHECK(image.channels == 3);
      CHECK(image.pixels == draw_object(again, object, size).pixels);
    }
  Rng rng = numbers(0);
  CHECK_THROWS_AS(draw_object(rng, 10, 64), Error);
}

TEST_CASE("a drawn data set is an image folder, the same for the same seed") {
  TemporaryFolder folder;
  const DrawOptions options = {
      .train_per_class = 6, .validation_per_class = 2, .size = 32, .seed = 3};
  for (const DrawnSet set : {DrawnSet::digits, DrawnSet::objects}) {
    const std::string name = set == DrawnSet::digits ? "digits" : "objects";
    draw_dataset(folder.path() / name, set, options);
    const TrainingData data = read_training_data(folder.path() / name);
    REQUIRE(data.train.classes.size() == 10);
    CHECK(data.train.classes[0] == (set == DrawnSet::digits ? "0" : "arrow"));
    CHECK(data.train.samples.size() == 60);
    CHECK(data.validation.samples.size() == 20);

    draw_dataset(folder.path() / "again", set, options);
    const auto files = content(folder.path() / name);
    CHECK(files == content(folder.path() / "again"));
    fs::remove_all(folder.path() / "again");
    draw_dataset(folder.path() / "again", set,
                 {.train_per_class = 6, .validation_per_class = 2, .size = 32, .seed = 4});
    CHECK(files != content(folder.path() / "again"));
    fs::remove_all(folder.path() / "again");

    const auto is_jpeg = [](const auto& file) { return file.first.ends_with(".jpg"); };
    const auto jpegs = static_cast<size_t>(std::ranges::count_if(files, is_jpeg));
    CHECK((set == DrawnSet::digits ? jpegs == 0 : jpegs > 20 && jpegs < files.size()));
  }
  CHECK_THROWS_AS(draw_dataset(folder.path() / "digits", DrawnSet::digits, options), Error);
}
