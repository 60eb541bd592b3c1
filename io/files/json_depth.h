// How deep a JSON text nests, told before anything is made of it: what reads or prints JSON may
// call itself once per level.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace engine {

// Deeper than anything that the program writes or reads.
inline constexpr size_t kDeepestJson = 16;

// The most brackets of arrays and objects that are open at once. The text need not be valid.
inline size_t json_depth(std::string_view text) {
  size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;  // whatever is escaped ends no string
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '[' || c == '{')) {
      deepest = std::max(deepest, ++depth);
    } else if (!in_string && (c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

}  // namespace engine
