// What the tests of weight files share: they write bytes and damage them in every place.
#pragma once

#include <fstream>
#include <functional>
#include <string>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "tests/support.h"

namespace engine::test {

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(ENGINE_SOURCE_DIR) / "tests/golden" / name;
}

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string file_text(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path);
  return std::string(as_text(bytes));
}

template <class T>
std::string little_endian(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// The message of the Error(weights) that `action` must throw: one line that names `path`.
inline std::string weights_error(const std::filesystem::path& path,
                                 const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(error.kind == Failure::weights);
    CHECK(message.find(path.string()) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  FAIL("nothing was thrown for " << path.string());
  return {};
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Every shorter file must be refused. A file with any one byte changed is read or refused with an
// Error, and nothing else may happen; sanitizers show whether anything else did.
inline void damage_everywhere(const std::string& bytes, const std::function<void(Bytes)>& parse) {
  for (size_t length = 0; length < bytes.size(); ++length) {
    // The bytes have an allocation of their own, so that AddressSanitizer sees their end.
    const std::string shorter = bytes.substr(0, length);
    CAPTURE(length);
    CHECK_THROWS_AS(parse(as_bytes(shorter)), Error);
  }
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      try {
        parse(as_bytes(changed));
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace engine::test
