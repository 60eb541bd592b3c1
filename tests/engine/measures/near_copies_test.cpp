#include "engine/measures/near_copies.h"

#include <cmath>

#include "engine/rng.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// Positive features around a common mean, as those behind a ReLU and an average are.
std::vector<float> random_rows(int64_t rows, int64_t width, uint64_t seed) {
  Rng rng({.seed = seed, .purpose = purpose("rows")});
  std::vector<float> values(static_cast<size_t>(rows * width));
  for (float& value : values) value = 5 + rng.normal();
  return values;
}

// What near_copies() must find, multiplied out.
std::vector<NearPair> all_pairs(const std::vector<float>& rows, int64_t samples, double least) {
  const auto count = static_cast<size_t>(samples), width = rows.size() / count;
  std::vector<double> mean(width);
  for (size_t i = 0; i < rows.size(); ++i) mean[i % width] += rows[i] / double(count);
  const auto product = [&](size_t a, size_t b) {
    double sum = 0;
    for (size_t k = 0; k < width; ++k)
      sum += (rows[a * width + k] - mean[k]) * (rows[b * width + k] - mean[k]);
    return sum;
  };
  std::vector<NearPair> pairs;
  for (size_t i = 0; i < count; ++i)
    for (size_t j = i + 1; j < count; ++j)
      if (const double s = product(i, j) / std::sqrt(product(i, i) * product(j, j)); s >= least)
        pairs.push_back({int64_t(i), int64_t(j), s});
  return pairs;
}

}  // namespace

TEST_CASE("near copies: every pair that is similar enough, and no other") {
  constexpr int64_t kSamples = 400, kWidth = 48;
  std::vector<float> rows = random_rows(kSamples, kWidth, 1);
  Rng rng({.seed = 2, .purpose = purpose("noise")});
  for (int64_t i = 0; i < 60; ++i)  // rows 300 + i are rows i, ever less exactly
    for (int64_t k = 0; k < kWidth; ++k)
      rows[size_t((300 + i) * kWidth + k)] =
          rows[size_t(i * kWidth + k)] + 0.01f * float(i) * rng.normal();
  for (const double least : {0.99, 0.95, 0.8}) {
    CAPTURE(least);
    const auto expected = all_pairs(rows, kSamples, least);
    const auto found = near_copies(rows, kSamples, {.similarity = least});
    REQUIRE(expected.size() > 10);
    REQUIRE(found.size() == expected.size());
    for (size_t i = 1; i < found.size(); ++i) CHECK(found[i - 1].similarity >= found[i].similarity);
    for (const NearPair& pair : expected) {
      const auto at = std::find_if(found.begin(), found.end(), [&](const NearPair& f) {
        return f.first == pair.first && f.second == pair.second;
      });
      REQUIRE(at != found.end());
      CHECK(at->similarity == doctest::Approx(pair.similarity).epsilon(1e-5));
    }
  }
  const auto exact = near_copies(rows, kSamples, {.similarity = 1});
  REQUIRE(exact.size() == 1);
  CHECK(exact[0].first == 0);
  CHECK(exact[0].second == 300);
  const auto all = near_copies(rows, kSamples, {.similarity = 0.8}),
             some = near_copies(rows, kSamples, {.similarity = 0.8, .most = 3});
  REQUIRE(some.size() == 3);
  for (size_t i = 0; i < some.size(); ++i) {
    CHECK(some[i].first == all[i].first);
    CHECK(some[i].second == all[i].second);
  }
}

TEST_CASE("near copies: nothing is similar to rows that are the mean") {
  const std::vector<float> same(10 * 4, 3.f);
  CHECK(near_copies(same, 10, {}).empty());
  CHECK(near_copies(std::span(same).first(4), 1, {}).empty());
  CHECK(near_copies({}, 0, {}).empty());
}
