// UTF-8 (RFC 3629): where a character ends, and what it is.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace engine {

// The bytes of the character that a text begins with; 0 if the text begins with none. Overlong
// forms, surrogates and what lies beyond U+10FFFF are no characters. The text must not be empty.
size_t utf8_length(std::string_view text);

// The characters of a text; each byte that belongs to none becomes U+FFFD.
std::u32string decode_utf8(std::string_view text);

}  // namespace engine
