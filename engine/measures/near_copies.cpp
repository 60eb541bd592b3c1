#include "engine/measures/near_copies.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numbers>
#include <tuple>

#include "engine/error.h"
#include "engine/rng.h"

namespace engine {
namespace {

constexpr int kDirections = 256;
using Sides = std::array<uint64_t, kDirections / 64>;

// Less the mean, of length 1; rows of zeros stay.
std::vector<float> centred(std::span<const float> features, size_t samples, size_t width) {
  std::vector<double> mean(width);
  for (size_t i = 0; i < samples; ++i)
    for (size_t k = 0; k < width; ++k)
      mean[k] += features[i * width + k] / static_cast<double>(samples);
  std::vector<float> rows(features.begin(), features.end());
  for (size_t i = 0; i < samples; ++i) {
    const std::span row(rows.data() + i * width, width);
    double squares = 0, before = 0;
    for (size_t k = 0; k < width; ++k) {
      before += static_cast<double>(row[k]) * row[k];
      row[k] = static_cast<float>(row[k] - mean[k]);
      squares += static_cast<double>(row[k]) * row[k];
    }
    constexpr double kRounding = 1e-10;  // what is left of rows that equal their mean
    const double scale = squares > kRounding * before ? 1 / std::sqrt(squares) : 0;
    for (float& value : row) value = static_cast<float>(value * scale);
  }
  return rows;
}

double product(const float* a, const float* b, size_t width) {
  double sum = 0;
  for (size_t k = 0; k < width; ++k) sum += static_cast<double>(a[k]) * b[k];
  return sum;
}

// On which side of each direction a row lies.
std::vector<Sides> sides_of(std::span<const float> rows, size_t samples, size_t width,
                            uint64_t seed) {
  std::vector<Sides> sides(samples);
  std::vector<float> direction(width);
  for (uint32_t d = 0; d < kDirections; ++d) {
    Rng rng({.seed = seed, .position = d, .purpose = purpose("near copies")});
    for (float& value : direction) value = rng.normal();
    for (size_t i = 0; i < samples; ++i)
      if (product(rows.data() + i * width, direction.data(), width) > 0)
        sides[i][d / 64] |= uint64_t{1} << (d % 64);
  }
  return sides;
}

int differing(const Sides& a, const Sides& b) {
  int count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += std::popcount(a[i] ^ b[i]);
  return count;
}

// In how many directions a pair that is similar enough differs at most.
int most_differing(double similarity) {
  const double share = std::acos(std::clamp(similarity, -1., 1.)) / std::numbers::pi;
  const double deviation = std::sqrt(kDirections * std::max(share * (1 - share), 0.01));
  return static_cast<int>(std::ceil(kDirections * share + 5 * deviation));
}

}  // namespace

std::vector<NearPair> near_copies(std::span<const float> features, int64_t samples,
                                  const NearOptions& options) {
  const auto count = static_cast<size_t>(samples);
  if (count < 2) return {};
  const size_t width = features.size() / count;
  require(width * count == features.size() && options.similarity > 0, Failure::internal,
          "{} features of {} samples, similarity {}", features.size(), samples, options.similarity);
  const std::vector<float> rows = centred(features, count, width);
  const std::vector<Sides> sides = sides_of(rows, count, width, options.seed);
  const int most = most_differing(options.similarity);
  constexpr double kRounding = 1e-6;  // copies have 1, but for float
  const auto before = [](const NearPair& a, const NearPair& b) {
    return std::tuple(-a.similarity, a.first, a.second) <
           std::tuple(-b.similarity, b.first, b.second);
  };
  std::vector<NearPair> pairs;  // a heap with the last on top
  for (size_t i = 0; i < count; ++i)
    for (size_t j = i + 1; j < count; ++j) {
      if (differing(sides[i], sides[j]) > most) continue;
      const double similarity = product(rows.data() + i * width, rows.data() + j * width, width);
      if (similarity < options.similarity - kRounding) continue;
      pairs.push_back({static_cast<int64_t>(i), static_cast<int64_t>(j), similarity});
      std::ranges::push_heap(pairs, before);
      if (pairs.size() <= options.most) continue;
      std::ranges::pop_heap(pairs, before);
      pairs.pop_back();
    }
  std::ranges::sort_heap(pairs, before);
  return pairs;
}

}  // namespace engine
