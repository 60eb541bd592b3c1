#include "io/data/idx.h"

#include <zlib.h>

#include <array>
#include <fstream>
#include <functional>
#include <numeric>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

std::string big_endian(std::initializer_list<uint32_t> values) {
  std::string bytes;
  for (const uint32_t v : values)
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(v >> shift));
  return bytes;
}

void write_gz(const fs::path& file, const std::string& bytes) {
  gzFile out = gzopen(file.c_str(), "wb");
  gzwrite(out, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(out);
}

// `count` images of 2 rows and 3 columns, with pixels 0, 1, 2, …
std::string image_bytes(uint32_t count) {
  std::string bytes = big_endian({0x803, count, 2, 3});
  for (uint32_t i = 0; i < count * 6; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

std::string label_bytes(const std::string& labels) {
  return big_endian({0x801, static_cast<uint32_t>(labels.size())}) + labels;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    CHECK(error.kind == Failure::data);
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("idx files, plain and gzip") {
  TemporaryFolder folder;
  write_text(folder.path() / "train-images-idx3-ubyte", image_bytes(4));
  write_gz(folder.path() / "train-labels-idx1-ubyte.gz", label_bytes({0, 2, 1, 2}));
  write_gz(folder.path() / "t10k-images-idx3-ubyte.gz", image_bytes(1));
  write_text(folder.path() / "t10k-labels-idx1-ubyte", label_bytes({1}));
  CHECK(has_idx_files(folder.path()));

  const TrainingData data = read_training_data(folder.path());
  CHECK(data.train.classes == std::vector<std::string>{"0", "1", "2"});
  REQUIRE(data.train.images.size() == 4);
  const Image& second = data.train.images[1];
  CHECK(second.width == 3);
  CHECK(second.height == 2);
  CHECK(second.channels == 1);
  CHECK(second.pixels == std::vector<uint8_t>{6, 7, 8, 9, 10, 11});
  CHECK(data.train.samples[1].label == 2);
  CHECK(data.train.samples[1].path.ends_with("train-images-idx3-ubyte#1"));
  REQUIRE(data.validation.samples.size() == 1);
  CHECK(data.validation.samples[0].label == 1);

  // The classes of a checkpoint have an order of their own, and one more class.
  CHECK(read_idx_validation(folder.path(), {"2", "7", "1"}).samples[0].label == 2);
  CHECK(error_of([&] { read_idx_validation(folder.path(), {"0"}); }).find("label 1") !=
        std::string::npos);
}

TEST_CASE("every wrong length of an idx file is an error") {
  TemporaryFolder folder;
  const fs::path file = folder.path() / "file";
  const std::string good = image_bytes(3), labels = label_bytes({1, 2, 3});
  for (size_t length = 0; length < good.size(); ++length) {
    write_text(file, good.substr(0, length));
    CHECK(error_of([&] { read_idx_images(file); }).find("file: ends after") != std::string::npos);
  }
  for (size_t length = 0; length < labels.size(); ++length) {
    write_text(file, labels.substr(0, length));
    CHECK(error_of([&] { read_idx_labels(file); }).find("file: ends after") != std::string::npos);
  }
  write_text(file, good + "x");
  CHECK(error_of([&] { read_idx_images(file); }).find("goes on after") != std::string::npos);
  write_text(file, labels + "x");
  CHECK(error_of([&] { read_idx_labels(file); }).find("goes on after") != std::string::npos);
  write_text(file, good);
  CHECK(read_idx_images(file).size() == 3);
}

TEST_CASE("damaged gzip data are an error") {
  TemporaryFolder folder;
  const fs::path file = folder.path() / "file.gz";
  write_gz(file, image_bytes(40));
  std::ifstream in(file, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  for (size_t length = 3; length < good.size(); ++length) {
    write_text(file, good.substr(0, length));
    CHECK_THROWS_AS(read_idx_images(file), Error);
  }
  std::string wrong_checksum = good;
  wrong_checksum[good.size() - 6] ^= 1;
  write_text(file, wrong_checksum);
  CHECK_THROWS_AS(read_idx_images(file), Error);
}

TEST_CASE("hostile idx headers are errors and allocate nothing") {
  TemporaryFolder folder;
  const fs::path file = folder.path() / "file";
  const uint32_t huge = 0xffffffff;
  const std::array<std::string, 7> headers = {
      big_endian({0x801, 1, 1, 1}),         big_endian({0x803, huge, huge, huge}),
      big_endian({0x803, 1, huge, 1}),      big_endian({0x803, 1, 1, huge}),
      big_endian({0x803, 1, 0, 28}),        big_endian({0x803, 1, 28, 0}),
      big_endian({0x803, huge, 4096, 4096})};
  for (const std::string& header : headers) {
    write_text(file, header);
    CHECK_THROWS_AS(read_idx_images(file), Error);
  }
  write_text(file, big_endian({0x801, huge}));
  CHECK_THROWS_AS(read_idx_labels(file), Error);
  write_text(file, big_endian({0x803, 0}));
  CHECK(error_of([&] { read_idx_labels(file); }).find("magic number 0x00000803") !=
        std::string::npos);
  CHECK_THROWS_AS(read_idx_labels(folder.path() / "missing"), Error);
  CHECK_THROWS_AS(read_idx_labels(folder.path()), Error);
}

TEST_CASE("compressed data that unpack to far more than their size are refused by the header") {
  TemporaryFolder folder;
  const fs::path images = folder.path() / "i.gz", labels = folder.path() / "l.gz";
  write_gz(images, big_endian({0x803, 17, 1024, 1024}) + std::string(size_t{17} << 20, '\0'));
  CHECK(error_of([&] { read_idx_images(images); }).find("its header promises 17825792") !=
        std::string::npos);
  write_gz(labels, label_bytes(std::string(size_t{1} << 20, '\1')));  // sorted labels pack well
  CHECK(read_idx_labels(labels).size() == size_t{1} << 20);
}

TEST_CASE("idx files as EMNIST calls them, with labels from 1") {
  TemporaryFolder folder;
  const auto path = [&](const char* name) { return folder.path() / name; };
  write_text(path("emnist-letters-train-images-idx3-ubyte"), image_bytes(3));
  write_gz(path("emnist-letters-train-labels.idx1-ubyte.gz"), label_bytes({1, 26, 3}));
  write_text(path("emnist-letters-test-images-idx3-ubyte"), image_bytes(1));
  write_text(path("emnist-letters-test-labels-idx1-ubyte"), label_bytes({3}));
  const TrainingData data = read_training_data(folder.path());
  CHECK(data.train.classes == std::vector<std::string>{"1", "3", "26"});
  CHECK(data.train.samples[1].label == 2);
  CHECK(data.validation.samples[0].label == 1);
}

TEST_CASE("idx files that do not belong together") {
  TemporaryFolder folder;
  write_text(folder.path() / "train-images-idx3-ubyte", image_bytes(2));
  const auto error = [&] { return error_of([&] { read_idx_folder(folder.path()); }); };
  CHECK(error().find("no train-labels-idx1-ubyte") != std::string::npos);
  write_text(folder.path() / "train-labels-idx1-ubyte", label_bytes({1, 0, 1}));
  CHECK(error().find("3 labels for 2 images") != std::string::npos);
  write_text(folder.path() / "train-labels-idx1-ubyte", label_bytes({1, 0}));
  CHECK(error().find("no t10k-images-idx3-ubyte") != std::string::npos);
  write_text(folder.path() / "t10k-images-idx3-ubyte", image_bytes(1));
  write_text(folder.path() / "t10k-labels-idx1-ubyte", label_bytes({2}));
  CHECK(error().find("label 2 is not one of the 2 classes") != std::string::npos);
  write_text(folder.path() / "emnist-train-images.idx3-ubyte", image_bytes(2));
  CHECK(error().find("which is the data set?") != std::string::npos);
  fs::remove(folder.path() / "emnist-train-images.idx3-ubyte");
  write_text(folder.path() / "train-images-idx3-ubyte", image_bytes(0));
  write_text(folder.path() / "train-labels-idx1-ubyte", label_bytes({}));
  CHECK(error().find("no images") != std::string::npos);
}

TEST_CASE("the real MNIST files") {
  const std::optional<fs::path> root = test_data();
  if (!root || !fs::exists(*root / "mnist")) return note_skipped("no mnist");
  const TrainingData data = read_training_data(*root / "mnist");
  CHECK(data.train.images.size() == 60000);
  CHECK(data.validation.images.size() == 10000);
  CHECK(data.train.classes.size() == 10);
  CHECK(data.train.images[0].width == 28);
  // These are the first labels of both files, and the mean with which PyTorch's example normalises.
  const std::vector<int> expected = {5, 0, 4, 1, 9};
  for (size_t i = 0; i < expected.size(); ++i) CHECK(data.train.samples[i].label == expected[i]);
  CHECK(data.validation.samples[0].label == 7);
  double sum = 0;
  for (const Image& image : data.train.images)
    sum = std::accumulate(image.pixels.begin(), image.pixels.end(), sum);
  CHECK(sum / (60000.0 * 784 * 255) == doctest::Approx(0.1307).epsilon(0.001));
}
