// UTF-8 (RFC 3629): where a character ends, and what it is.
//
// Names of files are any bytes. Where a text must be UTF-8, as in JSON, each byte of a name that
// belongs to no character is written as one of U+EF80 to U+EFFF, which are for private use; so are
// the bytes of these characters themselves, and every name comes back as it was.
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

// Any bytes as UTF-8, and back. Text without those private characters is the same in both forms.
std::string utf8_from_bytes(std::string_view bytes);
std::string bytes_from_utf8(std::string_view text);

}  // namespace engine
