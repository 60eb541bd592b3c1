// Compares records of a pack in device memory with the stages that edit the pixels on the CPU: the
// same seed gives the same network input.
#include "io/data/device_augment.h"

#include <vector>

#include "io/data/loader.h"
#include "io/images/preprocess.h"
#include "kernels/reference.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kCrop = 17, kSamples = 23, kBatch = 4;

// Pictures of many sizes, some smaller than the crop, one after the other.
struct Pictures {
  explicit Pictures(int channels) {
    Rng rng({.seed = 5, .purpose = purpose("pictures")});
    for (int i = 0; i < kSamples; ++i) {
      Image image(9 + int(rng.below(20)), 9 + int(rng.below(20)), channels);
      // Plain and coloured areas: every sector of the hue, grays, dark and light.
      for (int y = 0; y < image.height; ++y)
        for (int x = 0; x < image.width * channels; ++x)
          image.row(y)[x] = static_cast<uint8_t>(
              rng.below(3) == 0 ? 200 : rng.below(256) >> (y % 2 ? rng.below(4) : 0));
      offsets.push_back(bytes.size());
      bytes.insert(bytes.end(), image.pixels.begin(), image.pixels.end());
      data.samples.push_back({"picture " + std::to_string(i), i % 3});
      images.push_back(std::move(image));
    }
  }
  std::vector<Image> images;
  std::vector<uint64_t> offsets;
  std::vector<uint8_t> bytes;
  Dataset data{.classes = {"a", "b", "c"}};
};

// The network's input of one batch, as the host backends make it.
std::vector<float> input_of(const Batch& batch, const Pictures& pictures, int channels) {
  const StepParams params{.packed = batch.records != nullptr};
  std::vector<int32_t> levels(kBatch);
  const InputView view{.images = batch.images,
                       .pack = pictures.bytes.data(),
                       .records = batch.records,
                       .mean_levels = levels.data(),
                       .capacity = kBatch,
                       .batch = batch.count,
                       .height = kCrop,
                       .width = kCrop,
                       .channels = channels,
                       .mean = {0.485f, 0.456f, 0.406f},
                       .std = {0.229f, 0.224f, 0.225f},
                       .params = &params};
  std::vector<float> input(size_t(batch.count) * kCrop * kCrop * channels);
  reference::load_images(input.data(), view);
  return input;
}

AugmentConfig colourful() {
  AugmentConfig config = preset(Augment::light);
  config.crop_padding = 3;
  config.vertical_flip = 0.5f;
  config.jitter = {.brightness = 0.5f, .contrast = 0.6f, .saturation = 0.7f, .hue = 0.3f};
  return config;
}

AugmentConfig only_contrast() {
  AugmentConfig config;
  config.jitter = {.contrast = 0.5f};
  return config;
}

void check_equal_input(const AugmentConfig& config, int channels, int threads) {
  Preprocess preprocess;
  preprocess.crop = kCrop;
  preprocess.channels = channels;
  const Pictures pictures(channels);
  const LoaderOptions options{.width = kCrop,
                              .height = kCrop,
                              .channels = channels,
                              .batch = kBatch,
                              .threads = threads,
                              .seed = 9};
  Loader pixels(
      pictures.data,
      [&, stages = edit_stages(config, preprocess)](size_t index, const RandomKey& key) {
        const Image& packed = pictures.images[index];
        Rng rng(key);
        const CropWindow window = sample_crop(config, packed.width, packed.height, kCrop, rng);
        Image image = crop(packed, window.left, window.top, window.width, window.height);
        for (const Stage& stage : stages) stage(image, rng);
        return image;
      },
      options);
  Loader records(
      pictures.data,
      [&](size_t index, const RandomKey& key) {
        const Image& image = pictures.images[index];
        return sample_record(config, preprocess, pictures.offsets[index], image.width, image.height,
                             key);
      },
      options);
  int batches = 0;
  for (uint32_t epoch = 0; epoch < 3; ++epoch) {
    pixels.start(epoch);
    records.start(epoch);
    while (const Batch* expected = pixels.next()) {
      const Batch* batch = records.next();
      REQUIRE(batch);
      CHECK(batch->images == nullptr);
      CHECK(batch->first == expected->first);
      CHECK(std::equal(batch->labels.classes, batch->labels.classes + batch->count,
                       expected->labels.classes));
      CHECK(std::equal(batch->indices.begin(), batch->indices.end(), expected->indices.begin()));
      CHECK(input_of(*batch, pictures, channels) == input_of(*expected, pictures, channels));
      ++batches;
    }
    CHECK(records.next() == nullptr);
  }
  CHECK(batches == 3 * 6);
}

}  // namespace

TEST_CASE("records make the pictures that the stages make, to the bit") {
  for (const int channels : {1, 3})
    for (const int threads : {1, 3}) {
      check_equal_input(preset(Augment::none), channels, threads);
      check_equal_input(preset(Augment::light), channels, threads);
      check_equal_input(only_contrast(), channels, threads);
      check_equal_input(colourful(), channels, threads);
    }
}

TEST_CASE("what a device cannot do is said") {
  const Preprocess preprocess;
  const PackSpec spec = pack_spec(preprocess);
  const auto obstacle = [&](auto&& change) {
    AugmentConfig config = preset(Augment::light);
    change(config);
    return device_obstacle(config, preprocess, spec);
  };
  CHECK(obstacle([](AugmentConfig&) {}).empty());
  CHECK(obstacle([](AugmentConfig& c) { c = colourful(); }).empty());
  CHECK(
      obstacle([](AugmentConfig& c) { c.crop = CropKind::resized; }).starts_with("random resize"));
  CHECK(obstacle([](AugmentConfig& c) { c.affine.angle = {-5, 5}; }).starts_with("warps"));
  CHECK(obstacle([](AugmentConfig& c) { c.rand_augment.operations = 2; }).starts_with("RandAug"));
  CHECK(obstacle([](AugmentConfig& c) { c.blur.probability = 0.1f; }).starts_with("blur"));
  CHECK(obstacle([](AugmentConfig& c) { c.erasing.probability = 0.1f; }).starts_with("erasing"));
  PackSpec whole = spec;
  whole.resize_height = 0;
  CHECK(device_obstacle(preset(Augment::light), preprocess, whole).starts_with("the cache holds"));
}
