#include "tools/data/data_options.h"

#include <fstream>

#include "engine/error.h"
#include "io/data/sample.h"
#include "io/images/encode.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tools/data/leaks.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

void write(const fs::path& path, std::span<const std::byte> bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
}

Image picture(int width, int height, uint32_t seed) {
  Image image(width, height, 3);
  for (uint8_t& value : image.pixels) value = uint8_t((seed = seed * 1664525 + 1013904223) >> 24);
  return image;
}

// train/{a,b} with five pictures each and val/b with two, of many sizes.
struct Folder {
  TemporaryFolder folder;
  fs::path root = folder.path() / "data";
  Preprocess preprocess{.resize_height = 24, .interpolation = Interpolation::bicubic, .crop = 20};

  Folder() {
    for (uint32_t i = 0; i < 10; ++i)
      write(root / "train" / (i < 5 ? "a" : "b") / fmt::format("{}.png", i),
            encode_png(picture(30 + 7 * int(i), 60 - 3 * int(i), i)));
    for (uint32_t i = 10; i < 12; ++i)
      write(root / "val/b" / fmt::format("{}.png", i), encode_png(picture(40, 33 + int(i), i)));
  }
  DataOptions options(CacheKind cache) const {
    DataOptions o;
    o.data = root;
    o.cache = cache;
    o.cache_dir = folder.path() / "cache";
    return o;
  }
};

std::string usage_of(const DataOptions& options) {
  return message_of([&] { load_training_data(options); }, Failure::usage);
}

void check_same_input(const Prepare& a, const Prepare& b, size_t images) {
  for (uint32_t epoch = 0; epoch < 3; ++epoch)
    for (size_t i = 0; i < images; ++i) {
      const RandomKey key{.seed = 3, .epoch = epoch, .position = uint32_t(i)};
      CHECK(a(i, key).pixels == b(i, key).pixels);
    }
}

}  // namespace

TEST_CASE("from a cache come the pixels that come from the files, bit for bit") {
  const Folder folder;
  const TrainingData files = load_training_data(folder.options(CacheKind::none));
  for (const CacheKind kind : {CacheKind::ram, CacheKind::disk})
    for (const bool full : {false, true}) {
      TrainingData cached = load_training_data(folder.options(kind));
      DataOptions options = folder.options(kind);
      if (full) options.cache_size = "full";
      const Cache cache = open_cache(cached, options, folder.preprocess, {.threads = 2});
      CHECK(cache.kind == kind);
      CHECK(cache.images == 12);
      CHECK(fs::exists(cache.file) == (kind == CacheKind::disk));
      check_same_input(evaluation_input(files.validation, folder.preprocess),
                       evaluation_input(cached.validation, folder.preprocess), 2);
      // A random resized crop takes its window from the picture in the cache, which gives the same
      // pixels only if that one is full.
      for (const Augment augment : {Augment::none, Augment::light, Augment::standard})
        if (full || augment != Augment::standard)
          check_same_input(training_input(files.train, folder.preprocess, preset(augment), false),
                           training_input(cached.train, folder.preprocess, preset(augment), false),
                           10);
    }
}

TEST_CASE("a damaged cache gives the pixels of the files") {
  const Folder folder;
  const DataOptions options = folder.options(CacheKind::disk);
  TrainingData cached = load_training_data(options);
  const Cache cache = open_cache(cached, options, folder.preprocess, {});
  std::fstream file(cache.file, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(4096 + std::streamoff(cached.train.pack->record(cached.train.records[4]).offset) + 1);
  file.put(char(~cached.train.pack->pixels()[cached.train.pack->record(4).offset + 1]));
  file.close();
  const TrainingData files = load_training_data(options);
  check_same_input(training_input(files.train, folder.preprocess, preset(Augment::light), false),
                   training_input(cached.train, folder.preprocess, preset(Augment::light), false),
                   10);
  CHECK(cached.train.pack->damaged() == std::vector<size_t>{4});
  const std::string said = damage_of(cached.train);
  CHECK(mentions(said, cache.file.string()));
  CHECK(mentions(said, "of 12 pictures 1 are damaged"));
  CHECK(mentions(said, "train/a/4.png"));
  CHECK(damage_of(files.train).empty());
}

TEST_CASE("the fastest cache that fits is chosen, with a reason") {
  const Folder folder;
  const auto open = [&](CacheKind asked, const CacheLimits& limits,
                        std::optional<CacheKind> before = std::nullopt) {
    TrainingData data = load_training_data(folder.options(asked));
    return open_cache(data, folder.options(asked), folder.preprocess, limits, before);
  };
  const uint64_t enough = uint64_t{1} << 30;
  CHECK(open(CacheKind::automatic, {}).kind == CacheKind::ram);
  CHECK(mentions(open(CacheKind::automatic, {.device_bytes = Obstacle{"no such device"}}).reason,
                 "not gpu: no such device"));
  CHECK(open(CacheKind::automatic, {.device_bytes = enough}).kind == CacheKind::gpu);
  const Cache small = open(CacheKind::automatic, {.device_bytes = uint64_t{1000}});
  CHECK(small.kind == CacheKind::ram);
  CHECK(mentions(small.reason, "free device memory"));
  CHECK(open(CacheKind::automatic, {.reused = false}).kind == CacheKind::none);
  const std::string reason = open(CacheKind::ram, {.reused = false}).reason;
  CHECK_FALSE(reason.starts_with("0.0 "));  // its size is known all the same
  // What the run used before goes on, unless it cannot or another one is asked for.
  CHECK(open(CacheKind::automatic, {}, CacheKind::disk).kind == CacheKind::disk);
  CHECK(open(CacheKind::automatic, {.device_bytes = enough}, CacheKind::none).kind ==
        CacheKind::none);
  const Cache other = open(CacheKind::automatic, {}, CacheKind::gpu);
  CHECK(other.kind == CacheKind::ram);
  CHECK(mentions(other.reason, "the run used gpu, but"));
  CHECK(mentions(open(CacheKind::ram, {}, CacheKind::disk).reason, "the run used disk until now"));
  CHECK_THROWS_WITH_AS(open(CacheKind::gpu, {.device_bytes = Obstacle{"no GPU"}}),
                       "--cache gpu: no GPU", Error);

  const auto json = to_json(open(CacheKind::disk, {}));
  CHECK(json["kind"] == "disk");
  CHECK(json["images"] == 12);
  CHECK(mentions(json["contents"], "shorter side 24, bicubic"));
  CHECK(available_memory() > (uint64_t{1} << 20));
}

TEST_CASE("an image that cannot be read stops the cache, or is left to the loader") {
  const Folder folder;
  fs::resize_file(folder.root / "train/a/2.png", 60);
  DataOptions options = folder.options(CacheKind::ram);
  TrainingData data = load_training_data(options);
  CHECK_THROWS_AS(open_cache(data, options, folder.preprocess, {}), Error);
  options.on_bad_image = OnBadImage::skip;
  open_cache(data, options, folder.preprocess, {});
  const Prepare prepare = evaluation_input(data.train, folder.preprocess);
  CHECK(prepare(1, {}).width == 20);
  try {
    prepare(2, {});
    FAIL("no Error");
  } catch (const Error& error) {
    CHECK(error.kind == Failure::data);
    CHECK(mentions(error.what(), "train/a/2.png"));
  }
}

TEST_CASE("flags of data sets that contradict each other") {
  const Folder folder;
  DataOptions options;
  CHECK(mentions(usage_of(options), "--data is missing"));
  options.data = folder.root;
  options.stratify = true;
  CHECK(mentions(usage_of(options), "--stratify"));
  options.split = "0.5/0.5";
  CHECK(mentions(usage_of(options), "is split already"));
  options.data = folder.root / "train";
  const TrainingData data = load_training_data(options);
  CHECK(data.train.samples.size() == 6);  // of 5 each, 3 and 2
  CHECK(data.validation.samples.size() == 4);
  options.split_file = "x.csv";
  CHECK(mentions(usage_of(options), "--split-file"));
  options.labels = "y.csv";
  CHECK(mentions(usage_of(options), "both where images come from"));
  options.data.clear();
  CHECK(mentions(usage_of(options), "both files of labels"));
}

TEST_CASE("flags of labels and groups belong together") {
  DataOptions options;
  options.data = "somewhere";
  options.group_column = "patient";
  CHECK(mentions(usage_of(options), "--group-column is for --labels"));
  options.data.clear();
  options.labels = "x.csv";
  options.group_pattern = "x";
  CHECK(mentions(usage_of(options), "one of them"));
  options = {};
  options.data = "somewhere";
  options.image_suffix = ".jpg";
  CHECK(mentions(usage_of(options), "--image-suffix is for --labels"));
  options.image_suffix.reset();
  options.path_column = "file";
  CHECK(mentions(usage_of(options), "--path-column is for --labels"));
}

TEST_CASE("without val, validation images are drawn from those to train with") {
  const Folder folder;
  fs::rename(folder.root / "val", folder.root / "test");
  DataOptions options = folder.options(CacheKind::none);
  const TrainingData data = load_training_data(options);
  CHECK(data.drawn);
  CHECK(data.train.samples.size() == 8);
  CHECK(data.validation.samples.size() == 2);
  REQUIRE(data.test.has_value());
  CHECK(data.test->samples.size() == 2);
  // An evaluation draws the same images, and reads the test images where they are.
  const EvaluationData again = load_evaluation_data(options, std::nullopt, data.train.classes);
  REQUIRE(again.images.samples.size() == 2);
  CHECK(again.images.samples[1].path == data.validation.samples[1].path);
  CHECK(load_evaluation_data(options, Part::test, data.train.classes).images.samples.size() == 2);
  options.split = "0.6/0.4";
  CHECK(load_training_data(options).validation.samples.size() == 4);
  options.split = "0.6/0.2/0.2";
  CHECK(mentions(usage_of(options), "is the test set; two shares"));
  fs::remove_all(folder.root / "test");
  CHECK(load_training_data(options).test->samples.size() == 2);
  options.split.clear();
  const std::string message = message_of([&] { load_training_data(options); });
  CHECK(mentions(message, "no validation folder"));
  CHECK(mentions(message, "--split 0.8/0.2 takes a fifth of the images in train"));
}

TEST_CASE("copies of an image stay in one part of a drawn split, unless nobody looks for them") {
  const Folder folder;
  for (int i = 0; i < 8; ++i)
    fs::copy_file(folder.root / "train/a/0.png",
                  folder.root / fmt::format("train/a/copy{}.png", i));
  DataOptions options = folder.options(CacheKind::none);
  options.data = folder.root / "train";
  options.split = "0.5/0.5";
  options.stratify = true;
  const auto shared = [&] {
    const TrainingData data = load_training_data(options);
    DataOptions looking = options;
    looking.no_duplicate_check = false;
    return report_leaks(parts_of(data), looking, {}, {}).images.size();
  };
  CHECK(shared() == 0);
  options.no_duplicate_check = true;
  CHECK(shared() == 1);
}

TEST_CASE("images that several parts share are named") {
  const Folder folder;
  fs::copy_file(folder.root / "train/b/7.png", folder.root / "val/b/x.png");
  DataOptions options = folder.options(CacheKind::ram);
  TrainingData data = load_training_data(options);
  const auto report = [&] {
    return report_leaks(parts_of(data), options, {}, folder.folder.path()).images.size();
  };
  CHECK(report() == 1);
  std::ifstream file(folder.folder.path() / "duplicates.csv");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  CHECK(text == fmt::format("copy,split,label,path\n0,train,b,{0}/train/b/7.png\n"
                            "0,val,b,{0}/val/b/x.png\n",
                            folder.root.string()));
  open_cache(data, options, folder.preprocess, {});
  CHECK(report() == 1);  // by the pack's hashes
  options.no_duplicate_check = true;
  CHECK(report() == 0);
}

TEST_CASE("what an evaluation reads: one part, by the classes of the weights") {
  const Folder folder;
  const std::vector<std::string> classes = {"c", "b", "a"};
  DataOptions options = folder.options(CacheKind::none);
  const auto load = [&](std::optional<Part> part = std::nullopt) {
    return load_evaluation_data(options, part, classes);
  };
  const EvaluationData validation = load();
  CHECK(validation.images.classes == classes);
  REQUIRE(validation.images.samples.size() == 2);
  CHECK(validation.images.samples[0].label == 1);
  CHECK(validation.part == Part::validation);
  REQUIRE(validation.train.has_value());
  CHECK(validation.train->samples.size() == 10);
  const EvaluationData train = load(Part::train);
  CHECK(train.images.samples.size() == 10);
  CHECK_FALSE(train.train.has_value());
  CHECK(mentions(message_of([&] { load(Part::test); }), "data/test: no such folder"));
  CHECK(mentions(message_of([&] { load_evaluation_data(options, Part::train, {"a"}); }),
                 "class \"b\""));
  // For a file without classes they are the folder's own.
  CHECK(load_evaluation_data(options, std::nullopt, {}).images.classes ==
        std::vector<std::string>{"b"});
  options.no_duplicate_check = true;
  CHECK_FALSE(load().train.has_value());

  options.data = folder.root / "train";  // no parts in it
  const EvaluationData all = load();
  CHECK(all.images.samples.size() == 10);
  CHECK_FALSE(all.part.has_value());
  options.split = "0.4/0.4/0.2";
  const TrainingData drawn = load_training_data(options);
  const EvaluationData test = load(Part::test);
  REQUIRE(drawn.test.has_value());
  REQUIRE(test.images.samples.size() == drawn.test->samples.size());
  for (size_t i = 0; i < test.images.samples.size(); ++i) {
    CHECK(test.images.samples[i].path == drawn.test->samples[i].path);
    CHECK(test.images.classes[size_t(test.images.samples[i].label)] ==
          drawn.test->classes[size_t(drawn.test->samples[i].label)]);
  }
  options.data = folder.root;
  CHECK(mentions(message_of([&] { load(); }, Failure::usage), "is split already"));
}

TEST_CASE("digests of the images change with their files, not with the cache") {
  const Folder folder;
  const auto digests = [&](CacheKind kind) {
    TrainingData data = load_training_data(folder.options(kind));
    open_cache(data, folder.options(kind), folder.preprocess, {});
    return image_digests(data);
  };
  const ImageDigests files = digests(CacheKind::none), ram = digests(CacheKind::ram);
  CHECK(files.contents.empty());
  CHECK(files.sizes == ram.sizes);
  CHECK(digests(CacheKind::disk).contents == ram.contents);
  const fs::path image = folder.root / "train/a/2.png";
  std::fstream stream(image, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekp(0, std::ios::end);
  stream << "!";  // behind the picture's end
  stream.close();
  CHECK(digests(CacheKind::none).sizes != files.sizes);
  const ImageDigests longer = digests(CacheKind::ram);
  CHECK(longer.contents != ram.contents);
  fs::copy_file(folder.root / "train/a/3.png", image, fs::copy_options::overwrite_existing);
  CHECK(digests(CacheKind::ram).contents != longer.contents);
}
