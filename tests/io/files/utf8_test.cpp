#include "io/files/utf8.h"

#include <doctest/doctest.h>

#include "tests/support.h"

using namespace engine;

namespace {

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace

TEST_CASE("UTF-8 stays as it is, other bytes get stand-ins, and all come back") {
  for (const std::string text : {"", "plain", "Übel Größe", "\U0001F40E", "\u20AC\uFFFF"}) {
    CHECK(utf8_from_bytes(text) == text);
    CHECK(bytes_from_utf8(text) == text);
  }
  CHECK(utf8_from_bytes("caf\xE9") == "caf\uEFE9");
  CHECK(utf8_from_bytes("\x80\xFF") == "\uEF80\uEFFF");
  // A name that holds stand-ins already is told from one that needs them.
  CHECK(utf8_from_bytes("\uEFE9") == "\uEFEE\uEFBF\uEFA9");
}

TEST_CASE("every two bytes come back from their UTF-8") {
  for (int first = 1; first < 256; ++first)
    for (int second = 1; second < 256; ++second) {
      const std::string bytes = {static_cast<char>(first), static_cast<char>(second), 'x'};
      const std::string text = utf8_from_bytes(bytes);
      if (!is_utf8(text) || bytes_from_utf8(text) != bytes) FAIL(first << " " << second);
    }
  for (const std::string bytes : {"\uEF80", "\uEFFF", "\xEE\xBE", "\xEE\xBE\xE9\xEE\xBE\x80"}) {
    CHECK(is_utf8(utf8_from_bytes(bytes)));
    CHECK(bytes_from_utf8(utf8_from_bytes(bytes)) == bytes);
  }
}
