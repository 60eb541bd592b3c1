// JSON (RFC 8259), read and printed. The parser and the printer of nlohmann's library are compiled
// here alone: they take longer than most sources that want them. What reads or prints JSON may call
// itself once per level, so a text that nests too deep is refused before anything is made of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "engine/error.h"

namespace engine {

// Deeper than anything that the program writes or reads.
inline constexpr size_t kDeepestJson = 16;

// The most brackets of arrays and objects that are open at once. The text need not be valid.
size_t json_depth(std::string_view text);

// The value of a text, as nlohmann::json or ordered_json. Throws Error(kind, "WHAT: …") where the
// text is no JSON or nests deeper than kDeepestJson.
template <class Json>
Json parse_json(std::string_view text, Failure kind = Failure::internal,
                std::string_view what = "JSON");

// The same, but null where parse_json() throws.
template <class Json>
Json json_or_null(std::string_view text);

// A number that is whole and that an Int, int or int64_t, holds, 3 and 3.0 alike: nlohmann's own
// conversion cuts others without a word. Throws Error(kind, "WHAT 1e+99 is no whole number").
template <class Int, class Json>
Int whole_number(const Json& value, Failure kind, std::string_view what);

// Hears the tokens of a text in their order; what it throws ends the walk.
struct JsonListener {
  virtual ~JsonListener() = default;
  virtual void open() = 0;  // an object or an array begins
  virtual void close() = 0;
  virtual void key(const std::string& name) = 0;
  virtual void value() = 0;  // neither object nor array
};

// Makes nothing of the text, however deep it nests. Throws Error(kind, "WHAT: …") where it is no
// JSON.
void walk_json(std::string_view text, JsonListener& listener, Failure kind, std::string_view what);

// In one line, or with so many spaces per level; 0 gives lines without. Bytes that are no UTF-8
// become U+FFFD.
inline constexpr int kOneLine = -1;
std::string print_json(const nlohmann::json& value, int indent = kOneLine);
std::string print_json(const nlohmann::ordered_json& value, int indent = kOneLine);

// In one line. Throws Error(kind, "WHAT: …") where a text is no UTF-8.
std::string print_utf8_json(const nlohmann::json& value, Failure kind, std::string_view what);

}  // namespace engine
