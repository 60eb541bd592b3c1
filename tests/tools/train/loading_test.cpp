// The batches of a run, from files to bytes: they are the same for any number of threads, for a
// cache that is made and one that is found, and wherever an epoch is entered.
#include <doctest/doctest.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/data/mix.h"
#include "io/data/sample.h"
#include "io/images/draw.h"
#include "tests/support.h"
#include "tools/data/class_weights.h"
#include "tools/data/data_options.h"
#include "tools/train/early_stop.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kSide = 32, kLoadedBatch = 8;
const Preprocess kPreprocess{.resize_height = 40, .crop = kSide};

// What a training step gets: pixels, labels and which samples are mixed.
struct LoadedStep {
  std::vector<uint8_t> images;
  std::vector<int32_t> labels;
  std::vector<std::vector<double>> mixes;
  bool operator==(const LoadedStep&) const = default;
};

std::vector<double> numbers(const Mix& m) {
  return {double(m.partner), double(m.left),   double(m.top),
          double(m.right),   double(m.bottom), double(m.share)};
}

// Two epochs, the second one entered at step `first_step`.
std::vector<LoadedStep> batches(const TrainingData& data, const AugmentConfig& augment, int threads,
                                int64_t first_step = 0, bool first_epoch = true) {
  Loader loader(
      data.train, training_input(data.train, kPreprocess, augment, false),
      {.width = kSide, .height = kSide, .batch = kLoadedBatch, .threads = threads, .seed = 3});
  std::vector<LoadedStep> steps;
  const auto read = [&](uint32_t epoch) {
    while (const Batch* b = loader.next()) {
      LoadedStep step{.images{b->images, b->images + size_t(b->count) * kSide * kSide * 3},
                      .labels{b->labels.classes, b->labels.classes + b->count}};
      const RandomKey key{.seed = 3, .epoch = epoch, .position = uint32_t(b->first)};
      for (const Mix& mix : sample_mixes(augment.mixing, key, b->count, kSide, kSide))
        step.mixes.push_back(numbers(mix));
      steps.push_back(std::move(step));
    }
  };
  if (first_epoch) loader.start(0), read(0);
  loader.start(1, first_step * kLoadedBatch), read(1);
  return steps;
}

AugmentConfig everything() {
  AugmentConfig augment = preset(Augment::strong);
  augment.rand_augment = {.operations = 2, .magnitude = 9};
  augment.mixing = {.mixup = 0.4f, .cutmix = 1};
  return augment;
}

}  // namespace

TEST_CASE("batches: any number of threads, a cold and a warm cache, before and after resume") {
  struct Recipe {
    const char* name;
    AugmentConfig augment;
    bool like_files;  // the pack holds what the recipe's resize gives
  };
  for (const Recipe& recipe : {Recipe{"light", preset(Augment::light), true},
                               Recipe{"everything, mixed", everything(), false}}) {
    CAPTURE(recipe.name);
    const TemporaryFolder folder;
    draw_dataset(folder.path() / "set", DrawnSet::objects,
                 {.train_per_class = 5, .validation_per_class = 1, .size = 48});
    DataOptions options;
    options.data = folder.path() / "set";
    options.cache_dir = folder.path() / "cache";
    const auto check_all = [&](const TrainingData& data, std::vector<LoadedStep>& expected) {
      for (int threads : {1, 2, 8}) {
        const std::vector<LoadedStep> steps = batches(data, recipe.augment, threads);
        if (expected.empty()) expected = steps;
        CHECK(steps.size() == 2 * 7);
        CHECK(steps == expected);
      }
      for (int64_t step : {0, 3, 7})
        for (int threads : {1, 8})
          CHECK(batches(data, recipe.augment, threads, step, false) ==
                std::vector(expected.begin() + 7 + step, expected.end()));
    };
    std::vector<LoadedStep> cached, files;
    for (CacheKind kind : {CacheKind::disk, CacheKind::disk, CacheKind::ram}) {
      options.cache = kind;
      TrainingData data = load_training_data(options);
      const bool warm = std::filesystem::exists(options.cache_dir);
      CHECK(warm == !cached.empty());
      const Cache cache = open_cache(data, options, kPreprocess, {.threads = 2});
      CHECK(cache.kind == kind);
      check_all(data, cached);
    }
    options.cache = CacheKind::none;
    TrainingData data = load_training_data(options);
    open_cache(data, options, kPreprocess, {});
    check_all(data, files);
    CHECK((files == cached) == recipe.like_files);
    CHECK(std::ranges::any_of(cached, [](const LoadedStep& s) {
            return std::ranges::any_of(s.mixes, [](const auto& m) { return m.back() < 1; });
          }) == recipe.augment.mixing.used());
  }
}

TEST_CASE("class weights: scikit-learn's balanced, or a file that names every class") {
  Dataset data{.classes = {"a", "b,c"}};
  for (int i = 0; i < 8; ++i) data.samples.push_back({"", i < 2 ? 0 : 1});
  CHECK(class_weights("none", data).empty());
  // sklearn.utils.class_weight.compute_class_weight("balanced", …): 8 / (2·2), 8 / (2·6)
  CHECK(class_weights("auto", data) == std::vector<double>{2, 8 / 12.});
  const TemporaryFolder folder;
  const std::string path = folder.path() / "weights.csv";
  const auto written = [&](const char* text) {
    std::ofstream(path) << text;
    return class_weights(path, data);
  };
  CHECK(written("class,weight\r\n\"b,c\",0.5\r\na,2\n") == std::vector<double>{2, 0.5});
  const auto mistake = [&](const char* text) { return message_of([&] { written(text); }); };
  CHECK(mentions(mistake("a,2\n\"b,c\",1\n"), "its first line is not `class,weight`"));
  CHECK(mentions(mistake("class,weight\na,1\n"), "no weight for class 'b,c'"));
  CHECK(mentions(mistake("class,weight\na,1\n\"b,c\",x\n"),
                 "weights.csv:3: 'x' is no finite weight above 0"));
  for (const char* value : {"-1", "0", "inf", "nan", "1e999"})
    CHECK(mentions(mistake(fmt::format("class,weight\na,1\n\"b,c\",{}\n", value).c_str()),
                   fmt::format("'{}' is no finite weight above 0", value)));
  CHECK(mentions(mistake("class,weight\na,1\n\"b,c\",1\nd,1\n"), "weights.csv:4: no class 'd'"));
  CHECK(mentions(mistake("class,weight\na,1\n\"b,c\",1\na,2\n"),
                 "weights.csv:4: a second weight of class 'a'"));
}

TEST_CASE("early stop: patience, least improvement, and figures of another image size anew") {
  const EarlyStopConfig config{.patience = 2, .min_delta = 0.01};
  EarlyStopState state;
  const auto epoch = [&](double top1, int size = 224) {
    count_epoch(config, state, {.top1 = top1, .merit = top1}, size);
    return should_stop(config, state);
  };
  CHECK(!epoch(0.5));
  CHECK(!epoch(0.505));  // too little
  CHECK(!epoch(0.6));
  CHECK(!epoch(0.6));
  CHECK(epoch(0.6));
  CHECK(!epoch(0.1, 256));
  CHECK(state.best == 0.1);

  const Watch top1, loss{.figure = Watch::Figure::loss}, auc{.figure = Watch::Figure::auc};
  const BestEpoch best{.epoch = 3, .size = 224, .top1 = 0.5, .loss = 1, .merit = 0.5},
      least{.epoch = 3, .size = 224, .top1 = 0.5, .loss = 1, .merit = -1};
  CHECK(is_better(top1, {.top1 = 0.6, .loss = 9, .merit = 0.6}, 224, best));
  CHECK(is_better(top1, {.top1 = 0.5, .loss = 0.9, .merit = 0.5}, 224, best));
  CHECK(!is_better(top1, {.top1 = 0.5, .loss = 1, .merit = 0.5}, 224, best));
  CHECK(is_better(loss, {.top1 = 0.1, .loss = 0.9, .merit = -0.9}, 224, least));
  CHECK(is_better(loss, {.top1 = 0.6, .loss = 1, .merit = -1}, 224, least));
  CHECK(!is_better(loss, {.top1 = 0.6, .loss = 2, .merit = -2}, 224, least));
  CHECK(is_better(auc, {.top1 = 0.1, .loss = 9, .merit = 0.6}, 224, best));
  CHECK(is_better(auc, {.top1 = 0.1, .loss = 0.9, .merit = 0.5}, 224, best));
  CHECK(!is_better(auc, {.top1 = 0.9, .loss = 0.1, .merit = 0.4}, 224, best));
  CHECK(is_better(top1, {.top1 = 0, .loss = 9, .merit = 0}, 256, best));

  // What is not finite or not defined is never better, also as the first of a size.
  for (const Watch& watch : {top1, loss, auc})
    for (const int size : {224, 256}) {
      CHECK(!is_better(watch, {.top1 = 1, .loss = std::nan(""), .merit = 1}, size, best));
      CHECK(!is_better(watch, {.top1 = std::nan(""), .loss = 0, .merit = 1}, size, best));
      CHECK(!is_better(watch, {.top1 = 1, .loss = 0, .merit = std::nan("")}, size, best));
    }
  CHECK(!epoch(std::nan(""), 288));
  CHECK(state.best == 0.1);
}
