#include "io/files/utf8.h"

#include <algorithm>

namespace engine {
namespace {

// U+EF80 to U+EFFF are EE BE 80 to EE BF BF: they stand for the bytes 80 to FF.
constexpr std::string_view kFirst = "\xEE\xBE", kSecond = "\xEE\xBF";

bool stands_for_byte(std::string_view character) {
  return character.starts_with(kFirst) || character.starts_with(kSecond);
}

void append_stand_in(std::string& text, char byte) {
  const auto value = static_cast<unsigned char>(byte);
  text += value < 0xC0 ? kFirst : kSecond;
  text += static_cast<char>(0x80 | (value & 0x3F));
}

}  // namespace

size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  // The second byte tells overlong forms, surrogates and values beyond U+10FFFF.
  const unsigned char second = byte(1);
  const bool valid = (first != 0xE0 || second >= 0xA0) && (first != 0xED || second < 0xA0) &&
                     (first != 0xF0 || second >= 0x90) && (first != 0xF4 || second < 0x90);
  return valid ? length : 0;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string characters;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    // The first byte of a character of n bytes has n ones, a zero, and the character's high bits.
    char32_t character = length == 0 ? U'\uFFFD' : static_cast<unsigned char>(text[0]);
    if (length > 1) character &= 0x7F >> length;
    for (size_t i = 1; i < length; ++i)
      character = character << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
    characters += character;
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return characters;
}

std::string utf8_from_bytes(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const size_t length = utf8_length(bytes);
    const std::string_view character = bytes.substr(0, std::max<size_t>(length, 1));
    if (length == 0 || stands_for_byte(character))
      for (const char byte : character) append_stand_in(text, byte);
    else
      text += character;
    bytes.remove_prefix(character.size());
  }
  return text;
}

std::string bytes_from_utf8(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const std::string_view character = text.substr(0, std::max<size_t>(utf8_length(text), 1));
    if (stands_for_byte(character))
      bytes += static_cast<char>((character[1] == kFirst[1] ? 0x80 : 0xC0) | (character[2] & 0x3F));
    else
      bytes += character;
    text.remove_prefix(character.size());
  }
  return bytes;
}

}  // namespace engine
