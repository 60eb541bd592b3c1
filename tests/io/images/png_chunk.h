// The parts that a PNG file is made of.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>

namespace engine::test {

inline std::string big_endian(uint32_t value) {
  return {char(value >> 24), char(value >> 16), char(value >> 8), char(value)};
}

// With its length and its checksum.
inline std::string png_chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const auto sum = crc32(0, reinterpret_cast<const Bytef*>(body.data()), uInt(body.size()));
  return big_endian(uint32_t(data.size())) + body + big_endian(uint32_t(sum));
}

}  // namespace engine::test
