// Values that are lists: 64,128.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace engine {

// The parts between the commas; an empty text is one empty part.
std::vector<std::string> split_list(std::string_view text);

}  // namespace engine
