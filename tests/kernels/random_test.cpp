// Philox against published vectors, and what is made of its bits.
#include "kernels/random.h"

#include <array>
#include <cstdlib>
#include <vector>

#include "tests/support.h"

using namespace engine;

namespace {
std::array<uint32_t, 4> bits(const RandomKey& key, uint32_t index) {
  const Random4 block = philox(key, index);
  return {block.bits[0], block.bits[1], block.bits[2], block.bits[3]};
}
}  // namespace

// kat_vectors of the Random123 distribution, philox4x32 with 10 rounds. The counter is (index,
// position, epoch, purpose), the key the seed's two halves.
TEST_CASE("philox gives the published bits") {
  CHECK(bits({}, 0) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(bits({.seed = ~uint64_t{0}, .epoch = ~0u, .position = ~0u, .purpose = ~0u}, ~0u) ==
        std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(bits({.seed = uint64_t{0x299f31d0} << 32 | 0xa4093822,
              .epoch = 0x13198a2e,
              .position = 0x85a308d3,
              .purpose = 0x03707344},
             0x243f6a88) ==
        std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("every part of the key matters") {
  const RandomKey key{.seed = 1, .epoch = 2, .position = 3, .purpose = 4};
  const auto here = bits(key, 5);
  for (RandomKey other : {RandomKey{2, 2, 3, 4}, RandomKey{1 + (uint64_t{1} << 32), 2, 3, 4},
                          RandomKey{1, 3, 3, 4}, RandomKey{1, 2, 4, 4}, RandomKey{1, 2, 3, 5}})
    CHECK(bits(other, 5) != here);
  CHECK(bits(key, 6) != here);
  CHECK(bits(key, 5) == here);
}

TEST_CASE("purposes are FNV-1a") {
  static_assert(purpose("") == 0x811c9dc5);
  static_assert(purpose("a") == 0xe40c292c);
  static_assert(purpose("foobar") == 0xbf9cf968);
  CHECK(purpose("dropout1") != purpose("dropout2"));
}

TEST_CASE("uniform lies in [0, 1) and is even") {
  CHECK(uniform(0) == 0.f);
  CHECK(uniform(0xffffffffu) < 1.f);
  CHECK(uniform(0xffffffffu) == 1.f - 0x1p-24f);
  CHECK(uniform(0x80000000u) == 0.5f);
  constexpr int kBins = 16, kDraws = 1 << 16;
  std::vector<int> counts(kBins);
  for (uint32_t i = 0; i < kDraws / 4; ++i)
    for (uint32_t word : bits({.seed = 9}, i)) ++counts[static_cast<int>(uniform(word) * kBins)];
  // 4096 expected; five standard deviations are 5·√(4096·15/16) = 310.
  for (int count : counts) CHECK(std::abs(count - kDraws / kBins) < 310);
}
