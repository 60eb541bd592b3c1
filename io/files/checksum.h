// SHA-256 (FIPS 180-4), to compare weight files with what their publishers state; XXH64, to find
// damage and equal files at the speed of memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace engine {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  std::string finish();  // 64 hexadecimal digits; call once

 private:
  void absorb(const std::byte* block);  // 64 bytes

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_ = {};
  uint64_t length_ = 0;  // bytes so far
};

std::string sha256(std::span<const std::byte> bytes);

// XXH64 (Collet) with seed 0. Not against people who make files collide on purpose.
uint64_t xxh64(std::span<const std::byte> bytes);

}  // namespace engine
