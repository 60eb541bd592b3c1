#include "io/data/loader.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "engine/error.h"
#include "engine/rng.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

Dataset numbered(int samples) {
  Dataset data{.classes = {"a", "b", "c"}};
  for (int i = 0; i < samples; ++i) data.samples.push_back({"image " + std::to_string(i), i % 3});
  return data;
}

constexpr int kWidth = 3, kHeight = 2;

// The pixels say which sample and which random numbers made them.
Image picture(size_t index, const RandomKey& key) {
  Image image(kWidth, kHeight, 3);
  Rng rng(key);
  for (size_t i = 0; i < image.pixels.size(); ++i)
    image.pixels[i] = static_cast<uint8_t>(index + rng.bits());
  return image;
}

LoaderOptions options(int batch, int threads) {
  return {.width = kWidth, .height = kHeight, .batch = batch, .threads = threads, .seed = 7};
}

// A copy of what a batch pointed to.
struct BatchCopy {
  std::vector<uint8_t> images;
  std::vector<int32_t> labels;
  std::vector<uint32_t> indices;
  std::vector<uint8_t> substituted;
  int64_t step, first;
  int total;
  bool operator==(const BatchCopy&) const = default;
};

BatchCopy copy(const Batch& b) {
  return {.images{b.images, b.images + b.count * kWidth * kHeight * 3},
          .labels{b.labels.classes, b.labels.classes + b.count},
          .indices{b.indices.begin(), b.indices.end()},
          .substituted{b.substituted.begin(), b.substituted.end()},
          .step = b.step,
          .first = b.first,
          .total = b.total};
}

std::vector<BatchCopy> rest_of_epoch(Loader& loader) {
  std::vector<BatchCopy> batches;
  while (const Batch* batch = loader.next()) batches.push_back(copy(*batch));
  return batches;
}

}  // namespace

TEST_CASE("an epoch's order is a permutation that depends on seed and epoch") {
  const std::vector<uint32_t> order = epoch_order(1000, 1, 0, true);
  CHECK(order == epoch_order(1000, 1, 0, true));
  CHECK(order != epoch_order(1000, 1, 1, true));
  CHECK(order != epoch_order(1000, 2, 0, true));
  std::vector<uint32_t> sorted = order;
  std::ranges::sort(sorted);
  CHECK(sorted == epoch_order(1000, 1, 0, false));
  CHECK(epoch_order(0, 1, 0, true).empty());
  CHECK(epoch_order(1, 1, 0, true) == std::vector<uint32_t>{0});
}

TEST_CASE("shuffling is uniform: every sample comes to every place equally often") {
  constexpr int kSamples = 6, kEpochs = 6000;
  int count[kSamples][kSamples] = {};
  for (uint32_t epoch = 0; epoch < kEpochs; ++epoch) {
    const std::vector<uint32_t> order = epoch_order(kSamples, 3, epoch, true);
    for (int i = 0; i < kSamples; ++i) ++count[i][order[i]];
  }
  for (const auto& row : count)
    for (const int n : row)
      CHECK(std::abs(n - 1000) < 150);  // five standard deviations: √(6000·1/6·5/6) = 29
}

TEST_CASE(
    "balanced draws: every class equally often, some samples twice with other random numbers") {
  Dataset data{.classes = {"rare", "none", "usual"}};
  for (int i = 0; i < 1000; ++i) data.samples.push_back({std::to_string(i), i < 50 ? 0 : 2});
  const std::vector<uint32_t> order = balanced_order(data, 7, 0);
  CHECK(order == balanced_order(data, 7, 0));
  CHECK(order != balanced_order(data, 7, 1));
  CHECK(order != balanced_order(data, 2, 0));
  std::map<uint32_t, int> count;
  int rare = 0;
  for (uint32_t index : order) ++count[index], rare += index < 50;
  CHECK(std::abs(rare - 500) < 80);  // five standard deviations: √(1000·1/4) = 16
  CHECK(count.size() < 600);         // about 950·(1 − e^(−500/950)) = 389 of the usual ones

  LoaderOptions o = options(10, 3);
  o.balanced = true;
  Loader loader(data, picture, o);
  loader.start(0);
  std::map<uint32_t, std::set<std::vector<uint8_t>>> pictures;
  for (const BatchCopy& batch : rest_of_epoch(loader))
    for (size_t i = 0; i < batch.indices.size(); ++i) {
      const auto from = batch.images.begin() + static_cast<int64_t>(i) * kWidth * kHeight * 3;
      pictures[batch.indices[i]].insert({from, from + kWidth * kHeight * 3});
    }
  for (const auto& [index, different] : pictures)
    CHECK(static_cast<int>(different.size()) == count[index]);
}

TEST_CASE("shares: each position once, parts differ by at most one, equal steps on every rank") {
  for (int ranks : {1, 2, 3, 4, 7})
    for (int batch : {1, 2, 3, 5})
      for (int64_t samples = 1; samples <= 3 * ranks * batch + 1; ++samples) {
        int64_t position = 0;  // the next one that no rank has yet
        const int64_t steps = steps_per_epoch(samples, batch, {0, ranks});
        for (int64_t step = 0; step < steps; ++step) {
          int least = batch, most = 0, sum = 0;
          for (int rank = 0; rank < ranks; ++rank) {
            const StepShare share = share_of_step(samples, batch, {rank, ranks}, step);
            REQUIRE(share.first == position);
            REQUIRE(share.total ==
                    std::min<int64_t>(int64_t{batch} * ranks, samples - step * batch * ranks));
            position += share.count, sum += share.count;
            least = std::min(least, share.count), most = std::max(most, share.count);
            if (share.count == 0) REQUIRE(share.total < ranks);
          }
          const StepShare any = share_of_step(samples, batch, {0, ranks}, step);
          REQUIRE(sum == any.total);
          REQUIRE(most - least <= 1);
          REQUIRE(most <= batch);
          if (step < steps - 1) REQUIRE(least == batch);
        }
        REQUIRE(position == samples);
        REQUIRE(steps_per_epoch(samples, batch, {ranks - 1, ranks}) == steps);
      }
}

TEST_CASE("batches hold the epoch's samples in order") {
  const Dataset data = numbered(23);
  Loader loader(data, picture, options(5, 2));
  CHECK(loader.next() == nullptr);  // not started
  loader.start(4);
  const std::vector<uint32_t> order = epoch_order(23, 7, 4, true);
  const std::vector<BatchCopy> batches = rest_of_epoch(loader);
  REQUIRE(loader.steps() == 5);
  REQUIRE(batches.size() == 5);
  uint32_t position = 0;
  for (const BatchCopy& batch : batches) {
    CHECK(batch.first == position);
    CHECK(batch.total == static_cast<int>(batch.indices.size()));
    for (size_t i = 0; i < batch.indices.size(); ++i, ++position) {
      CHECK(batch.indices[i] == order[position]);
      CHECK(batch.labels[i] == static_cast<int>(order[position] % 3));
      const Image image = picture(order[position], {7, 4, position, purpose("augment")});
      CHECK(std::ranges::equal(
          image.pixels,
          std::span(batch.images).subspan(i * image.pixels.size(), image.pixels.size())));
    }
  }
  CHECK(position == 23);
  CHECK(loader.next() == nullptr);
}

TEST_CASE("batches do not depend on the number of threads or the depth") {
  const Dataset data = numbered(101);
  std::vector<BatchCopy> expected;
  for (const auto& [threads, ahead, keep] :
       {std::array{1, 1, 1}, {2, 1, 2}, {2, 3, 1}, {8, 4, 1}, {8, 1, 1}}) {
    LoaderOptions o = options(4, threads);
    o.ahead = ahead, o.keep = keep;
    Loader loader(data, picture, o);
    std::vector<BatchCopy> batches;
    for (uint32_t epoch : {0u, 1u}) {
      loader.start(epoch);
      std::ranges::move(rest_of_epoch(loader), std::back_inserter(batches));
    }
    if (expected.empty()) expected = batches;
    CHECK(batches.size() == 2 * 26);
    CHECK(batches == expected);
  }
}

TEST_CASE("records: the same for any number of threads, wherever an epoch is entered") {
  const Dataset data = numbered(50);
  const auto record = [](size_t index, const RandomKey& key) {
    Rng rng(key);
    return ImageRecord{.offset = 64 * index,
                       .left = static_cast<int32_t>(rng.below(100)),
                       .top = static_cast<int32_t>(rng.below(100))};
  };
  struct Drawn {
    uint64_t offset;
    int32_t left, top, label;
    bool operator==(const Drawn&) const = default;
  };
  const auto rest = [](Loader& loader) {
    std::vector<std::vector<Drawn>> batches;
    while (const Batch* b = loader.next()) {
      CHECK(b->images == nullptr);
      auto& batch = batches.emplace_back();
      for (int i = 0; i < b->count; ++i)
        batch.push_back(
            {b->records[i].offset, b->records[i].left, b->records[i].top, b->labels.classes[i]});
    }
    return batches;
  };
  std::vector<std::vector<Drawn>> expected;
  for (int threads : {1, 2, 8}) {
    Loader loader(data, record, options(4, threads));
    loader.start(3);
    const auto batches = rest(loader);
    REQUIRE(batches.size() == 13);
    if (expected.empty()) expected = batches;
    CHECK(batches == expected);
    loader.start(3, 5 * 4);
    CHECK(rest(loader) == std::vector(expected.begin() + 5, expected.end()));
  }
  // Records have the order, the labels and the keys that images have.
  const std::vector<uint32_t> order = epoch_order(50, 7, 3, true);
  for (uint32_t at = 0; at < 50; ++at) {
    const ImageRecord r = record(order[at], {7, 3, at, purpose("augment")});
    CHECK(expected[at / 4][at % 4] == Drawn{r.offset, r.left, r.top, int(order[at] % 3)});
  }
}

TEST_CASE("an epoch can be entered at any step, also while another one is being prepared") {
  const Dataset data = numbered(30);
  Loader loader(data, picture, options(4, 3));
  loader.start(2);
  const std::vector<BatchCopy> whole = rest_of_epoch(loader);
  for (int64_t step = 0; step <= loader.steps(); ++step) {
    loader.start(9);
    loader.next();
    loader.start(2, std::min<int64_t>(step * 4, 30));
    CHECK(rest_of_epoch(loader) == std::vector(whole.begin() + step, whole.end()));
  }
}

TEST_CASE("ranks together see every sample once per epoch, in equal numbers of steps") {
  for (int samples : {1, 7, 24, 25}) {
    const Dataset data = numbered(samples);
    std::multiset<uint32_t> seen;
    for (int rank = 0; rank < 3; ++rank) {
      LoaderOptions o = options(4, 2);
      o.share = {rank, 3};
      Loader loader(data, picture, o);
      loader.start(0);
      const std::vector<BatchCopy> batches = rest_of_epoch(loader);
      CHECK(static_cast<int64_t>(batches.size()) == (samples + 11) / 12);
      for (const BatchCopy& batch : batches)
        seen.insert(batch.indices.begin(), batch.indices.end());
    }
    CHECK(static_cast<int>(seen.size()) == samples);
    CHECK(std::set(seen.begin(), seen.end()).size() == seen.size());
  }
}

namespace {

struct World {
  int ranks, batch;
};

// The batches of all ranks of a world that enters an epoch at `position` and takes `steps` steps,
// or all; by step, then by rank.
std::vector<BatchCopy> taken(const Dataset& data, World world, int64_t position, int64_t steps) {
  std::vector<std::unique_ptr<Loader>> loaders;
  for (int rank = 0; rank < world.ranks; ++rank) {
    LoaderOptions o = options(world.batch, 2);
    o.share = {rank, world.ranks};
    loaders.push_back(std::make_unique<Loader>(data, picture, o));
    loaders.back()->start(6, position);
  }
  std::vector<BatchCopy> batches;
  for (int64_t step = 0; step < steps; ++step)
    for (const auto& loader : loaders) {
      const Batch* batch = loader->next();
      if (!batch) {
        CHECK(batches.size() % world.ranks == 0);  // all ranks end after the same step
        return batches;
      }
      batches.push_back(copy(*batch));
    }
  return batches;
}

}  // namespace

TEST_CASE("an epoch that goes on with other ranks and batches has every sample once, as it was") {
  for (int samples : {1, 7, 23, 24, 25, 101}) {
    CAPTURE(samples);
    const Dataset data = numbered(samples);
    const std::vector<uint32_t> order = epoch_order(size_t(samples), 7, 6, true);
    for (int64_t steps : {0, 1, 2}) {
      int64_t position = 0;
      for (const World world : {World{2, 4}, {3, 3}, {1, 5}, {5, 1}, {2, 3}}) {
        const bool last = world.ranks == 2 && world.batch == 3;
        for (const BatchCopy& batch : taken(data, world, position, last ? samples + 1 : steps)) {
          REQUIRE(batch.first == position);
          for (size_t i = 0; i < batch.indices.size(); ++i, ++position) {
            REQUIRE(batch.indices[i] == order[position]);
            const Image image =
                picture(order[position], {7, 6, uint32_t(position), purpose("augment")});
            REQUIRE(std::ranges::equal(
                image.pixels,
                std::span(batch.images).subspan(i * image.pixels.size(), image.pixels.size())));
          }
        }
      }
      CHECK(position == samples);
    }
  }
}

TEST_CASE("`keep` batches stay as they are") {
  const Dataset data = numbered(60);
  LoaderOptions o = options(2, 4);
  o.keep = 3, o.ahead = 1;
  Loader loader(data, picture, o);
  loader.start(0);
  std::vector<std::pair<const Batch*, BatchCopy>> held;
  while (const Batch* batch = loader.next()) {
    held.emplace_back(batch, copy(*batch));
    if (held.size() > 3) held.erase(held.begin());
    for (const auto& [kept, as_given] : held) CHECK(copy(*kept) == as_given);
  }
}

TEST_CASE("the error of a bad image reaches next(), after the batches before it") {
  const Dataset data = numbered(20);
  for (int threads : {1, 4}) {
    LoaderOptions o = options(4, threads);
    o.shuffle = false;
    const auto prepare = [](size_t index, const RandomKey& key) {
      require(index != 9 && index != 10, Failure::data, "image {}: truncated", index);
      return picture(index, key);
    };
    Loader loader(data, prepare, o);
    loader.start(0);
    CHECK(loader.next() != nullptr);
    CHECK(loader.next() != nullptr);
    for (int again = 0; again < 2; ++again)
      CHECK_THROWS_WITH_AS(loader.next(),
                           "image 9: truncated; engine check-data names all such files, "
                           "--on-bad-image skip passes over them",
                           Error);
    loader.start(0, 3 * 4);  // after the bad ones
    CHECK(rest_of_epoch(loader).size() == 2);
  }
}

TEST_CASE("skipped images are replaced by the next readable ones and named once") {
  const Dataset data = numbered(12);
  const std::set<size_t> bad = {3, 4, 11};
  const auto prepare = [&](size_t index, const RandomKey& key) {
    require(!bad.contains(index), Failure::data, "cannot read {}", index);
    return picture(index, key);
  };
  std::vector<BatchCopy> expected;
  for (int threads : {1, 2, 8}) {
    LoaderOptions o = options(4, threads);
    o.shuffle = false;
    o.on_bad_image = OnBadImage::skip;
    Loader loader(data, prepare, o);
    std::vector<BatchCopy> batches;
    for (uint32_t epoch = 0; epoch < 2; ++epoch) {
      loader.start(epoch);
      batches = rest_of_epoch(loader);
    }
    REQUIRE(batches.size() == 3);
    CHECK(batches[0].indices == std::vector<uint32_t>{0, 1, 2, 5});
    CHECK(batches[0].substituted == std::vector<uint8_t>{0, 0, 0, 1});
    CHECK(batches[0].labels == std::vector<int32_t>{0, 1, 2, 2});
    CHECK(batches[1].indices == std::vector<uint32_t>{5, 5, 6, 7});
    CHECK(batches[2].indices == std::vector<uint32_t>{8, 9, 10, 0});
    if (expected.empty()) expected = batches;
    CHECK(batches == expected);

    const std::vector<BadImage> named = loader.bad_images();
    REQUIRE(named.size() == 3);
    CHECK(named[0].path == "image 3");
    CHECK(named[0].reason == "cannot read 3");
    CHECK(named[2].path == "image 11");
  }
}

TEST_CASE("skipping ends where no image can be read, and does not hide other failures") {
  const Dataset data = numbered(6);
  LoaderOptions o = options(4, 2);
  o.on_bad_image = OnBadImage::skip;
  const auto next = [&](Prepare prepare) {
    Loader loader(data, std::move(prepare), o);
    loader.start(0);
    loader.next();
  };
  CHECK_THROWS_WITH_AS(next([](size_t, const RandomKey&) -> Image { fail(Failure::data, "torn"); }),
                       "none of the 6 images can be read, the first because: torn", Error);
  CHECK_THROWS_AS(next([](size_t, const RandomKey&) -> Image { throw std::bad_alloc(); }),
                  std::bad_alloc);
  CHECK_THROWS_WITH_AS(next([](size_t, const RandomKey&) { return Image(5, 5, 3); }),
                       doctest::Contains("prepared as 5x5x3, the batch takes 3x2x3"), Error);
}

TEST_CASE("a loader can go at any time") {
  const Dataset data = numbered(50);
  std::atomic<int> prepared = 0;
  const auto prepare = [&](size_t index, const RandomKey& key) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    ++prepared;
    return picture(index, key);
  };
  { Loader never_started(data, prepare, options(4, 3)); }
  CHECK(prepared == 0);
  for (int batches = 0; batches < 8; ++batches) {
    Loader loader(data, prepare, options(4, 3));
    loader.start(0);
    for (int i = 0; i < batches; ++i) loader.next();
  }
  // The threads go no further than `ahead` = 2 batches beyond what was asked for: Σ 4 · (2 +
  // batches) over the eight runs.
  CHECK(prepared <= 4 * (2 * 8 + 28));
}

TEST_CASE("slots come from the caller's allocator, once, and go back to it") {
  std::map<void*, size_t> live;
  int calls = 0;
  const Dataset data = numbered(40);
  LoaderOptions o = options(4, 2);
  o.ahead = 3, o.keep = 2;
  o.memory.allocate = [&, plain = plain_memory()](size_t bytes) {
    void* memory = plain.allocate(bytes);
    ++calls, live[memory] = bytes;
    return memory;
  };
  o.memory.free = [&, plain = plain_memory()](void* memory) {
    live.erase(memory), plain.free(memory);
  };
  {
    Loader loader(data, picture, o);
    for (uint32_t epoch = 0; epoch < 3; ++epoch) {
      loader.start(epoch);
      while (const Batch* batch = loader.next()) {
        const auto slot = live.find(const_cast<uint8_t*>(batch->images));
        REQUIRE(slot != live.end());
        const auto end = reinterpret_cast<const uint8_t*>(batch->labels.classes + 4);
        CHECK(static_cast<size_t>(end - batch->images) <= slot->second);
      }
    }
    CHECK(calls == 5);
  }
  CHECK(live.empty());

  o.memory.allocate = [](size_t) -> void* { return nullptr; };
  CHECK_THROWS_WITH_AS(Loader(data, picture, o),
                       doctest::Contains("no memory for a batch of 4 images"), Error);
}

TEST_CASE("a loader tells which image it is at: the first of those that are being prepared") {
  const Dataset data = numbered(12);
  std::atomic<bool> open = false;
  std::atomic<int> held = 0;
  const auto prepare = [&](size_t index, const RandomKey& key) {
    if (key.position >= 5 && key.position <= 7) {  // each of the three threads stays at one
      ++held;
      while (!open) std::this_thread::yield();
    }
    return picture(index, key);
  };
  Loader loader(data, prepare, options(4, 3));
  CHECK(loader.under_way().empty());
  loader.start(0);
  while (held < 3) std::this_thread::yield();
  const uint32_t index = epoch_order(12, 7, 0, true)[5];
  CHECK(loader.under_way() == data.samples[index].path);
  open = true;
  while (loader.next()) {
  }
  CHECK(loader.under_way().empty());
}

TEST_CASE("waiting for data is counted") {
  const Dataset data = numbered(4);
  const auto slow = [](size_t index, const RandomKey& key) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return picture(index, key);
  };
  Loader loader(data, slow, options(2, 1));
  CHECK(loader.wait_seconds() == 0);
  loader.start(0);
  rest_of_epoch(loader);
  CHECK(loader.wait_seconds() > 0.02);  // at least one whole image is waited for
}

TEST_CASE("impossible options are refused") {
  const Dataset data = numbered(4);
  const auto make = [&](LoaderOptions o) { Loader loader(data, picture, std::move(o)); };
  CHECK_THROWS_AS(make(options(0, 1)), Error);
  CHECK_THROWS_AS(make(options(1, 0)), Error);
  LoaderOptions o = options(1, 1);
  o.share = {2, 2};
  CHECK_THROWS_AS(make(o), Error);
  CHECK_THROWS_AS(Loader(Dataset{}, picture, options(1, 1)), Error);
}
