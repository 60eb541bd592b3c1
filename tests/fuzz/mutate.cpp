#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace engine::test {
namespace {

uint32_t below(Rng& rng, size_t count) {
  return rng.below(static_cast<uint32_t>(count));
}

constexpr uint64_t kNumbers[] = {0,         1,          2,          0x7f,       0x80,
                                 0xff,      0x100,      0x7fff,     0x8000,     0xffff,
                                 0x10000,   0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
                                 INT64_MAX, 1ull << 63, UINT64_MAX, 65500,      65501};

// A piece that lies in `bytes`, at most 64 of them; nothing of nothing.
std::span<const std::byte> piece(std::span<const std::byte> bytes, Rng& rng) {
  if (bytes.empty()) return {};
  const size_t at = below(rng, bytes.size());
  return bytes.subspan(at, 1 + below(rng, std::min<size_t>(64, bytes.size() - at)));
}

void put_number(Seed& seed, Rng& rng) {
  constexpr std::array kSizes = {1, 2, 4, 8};
  const size_t size = kSizes[below(rng, kSizes.size())];
  if (seed.size() < size) return;
  const size_t at = below(rng, seed.size() - size + 1);
  uint64_t value = kNumbers[below(rng, std::size(kNumbers))];
  if (rng.chance(0.3f)) {  // a little more or less than it was
    value = 0;
    std::memcpy(&value, seed.data() + at, size);
    value += below(rng, 33) - 16;
  }
  std::array<std::byte, 8> raw;
  std::memcpy(raw.data(), &value, sizeof value);
  if (rng.chance(0.5f)) std::reverse(raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(size));
  std::memcpy(seed.data() + at, raw.data(), size);
}

void insert(Seed& seed, std::span<const std::byte> added, Rng& rng) {
  const Seed copy(added.begin(), added.end());  // it may be a piece of `seed`
  const auto at = seed.begin() + below(rng, seed.size() + 1);
  seed.insert(at, copy.begin(), copy.end());
}

void change(Seed& seed, std::span<const Seed> others, Rng& rng) {
  if (seed.empty()) return insert(seed, piece(others[below(rng, others.size())], rng), rng);
  switch (rng.below(8)) {
    case 0: seed[below(rng, seed.size())] ^= std::byte(1 << rng.below(8)); break;
    case 1: seed[below(rng, seed.size())] = std::byte(rng.below(256)); break;
    case 2:
    case 3: put_number(seed, rng); break;
    case 4: insert(seed, piece(seed, rng), rng); break;
    case 5: insert(seed, piece(others[below(rng, others.size())], rng), rng); break;
    case 6: {
      const auto removed = piece(seed, rng);
      const auto at = seed.begin() + (removed.data() - seed.data());
      seed.erase(at, at + static_cast<std::ptrdiff_t>(removed.size()));
      break;
    }
    default:
      if (rng.chance(0.2f)) seed.resize(below(rng, seed.size()));
  }
}

}  // namespace

Seed mutated(std::span<const Seed> seeds, Rng& rng, size_t most) {
  Seed seed = seeds[below(rng, seeds.size())];
  for (uint32_t changes = 1 + rng.below(8); changes > 0; --changes) change(seed, seeds, rng);
  if (seed.size() > most) seed.resize(most);
  return seed;
}

}  // namespace engine::test
