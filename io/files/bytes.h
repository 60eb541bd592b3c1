// Bytes of untrusted files: whole files in memory, and a reader that never leaves its bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "engine/tensor.h"

namespace engine {

using Bytes = std::span<const std::byte>;

// All bytes of a regular file. An Error(kind) names the file and gives the system's reason if it
// cannot be read to its end, and its size if that is more than `most` or than memory has room for:
// of a file with holes, no byte need be on any disk.
std::vector<std::byte> read_file(const std::filesystem::path& path, Failure kind = Failure::data,
                                 uint64_t most = std::numeric_limits<int64_t>::max());

// The bytes of a tensor: its elements times the size of one. There is no value if a dimension is
// negative or the product overflows.
std::optional<uint64_t> bytes_of(const Shape& shape, DType type);

inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Appends a value as it lies in memory, which is little-endian.
template <class T>
void append_raw(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Reads little-endian values in order. Every failure is an Error(weights) that begins with `what`,
// usually the file's path, and gives the position.
class ByteReader {
 public:
  ByteReader(Bytes bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }
  const std::string& what() const { return what_; }

  void seek(uint64_t position);
  Bytes take(uint64_t count);
  // The bytes up to the next newline, which is taken but not returned.
  std::string_view line();

  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  template <class... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) [[unlikely]]
      engine::fail(Failure::weights, "{}: at byte {}: {}", what_, position_,
                   fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  Bytes bytes_;
  std::string what_;
  size_t position_ = 0;
};

}  // namespace engine
