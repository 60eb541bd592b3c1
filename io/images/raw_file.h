// What the decoders of simple formats share: little-endian numbers of an untrusted file, and
// palettes in which no colour is left to chance.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "engine/error.h"

namespace engine {

// Reads little-endian values in order. An Error(data) that begins with `name` says so if the file
// ends before.
class RawFile {
 public:
  RawFile(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  size_t position() const { return at_; }
  size_t left() const { return file_.size() - at_; }
  void seek(size_t position) {
    require(position <= file_.size(), Failure::data, "{}: truncated, byte {} of {} is wanted",
            name_, position, file_.size());
    at_ = position;
  }
  const uint8_t* take(size_t count) {
    require(count <= left(), Failure::data, "{}: truncated, {} bytes at {} of {}", name_, count,
            at_, file_.size());
    const auto* bytes = reinterpret_cast<const uint8_t*>(file_.data()) + at_;
    at_ += count;
    return bytes;
  }
  int u8() { return *take(1); }
  int u16() {
    const uint8_t* bytes = take(2);
    return bytes[0] | bytes[1] << 8;
  }
  uint32_t u32() {
    const uint32_t low = static_cast<uint32_t>(u16());
    return low | static_cast<uint32_t>(u16()) << 16;
  }

 private:
  std::span<const std::byte> file_;
  std::string_view name_;
  size_t at_ = 0;
};

using Color = std::array<uint8_t, 3>;  // red, green, blue

// Every colour that a file does not give is black, as PIL has it.
using Palette = std::array<Color, 256>;

// `bits` bits as 8: 5 bits of all ones are 255. PIL rounds down.
constexpr uint8_t stretch(uint32_t value, int bits) {
  return static_cast<uint8_t>(value * 255 / ((1u << bits) - 1));
}

// Five bits each of blue, green and red, from the lowest bit on.
constexpr Color color_of_555(uint32_t pixel) {
  return {stretch(pixel >> 10 & 31, 5), stretch(pixel >> 5 & 31, 5), stretch(pixel & 31, 5)};
}

}  // namespace engine
