// Values of flags that JSON holds, as a command line has them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "io/files/json.h"
#include "io/files/utf8.h"

namespace engine {

inline std::string text_of(const nlohmann::ordered_json& value) {
  return value.is_string() ? bytes_from_utf8(value.get_ref<const std::string&>())
                           : print_json(value);
}

}  // namespace engine
