// The labels of an image as files of labels have them.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/targets.h"

namespace engine {

// "1" or "1.0", "0" or "0.0", as pandas writes whole numbers where values are missing, and nothing
// or spaces where it is not known. Error(data) begins with `where`: file, line and column.
Presence parse_presence(std::string_view text, const std::function<std::string()>& where);

// The labels of a list like "ring|star", without spaces around them; an empty text is an image
// without labels. A label that is empty or named twice is an Error(data) that begins with `where`.
std::vector<std::string> parse_label_list(std::string_view text, std::string_view separator,
                                          const std::function<std::string()>& where);

std::string_view trimmed(std::string_view text);  // without spaces at its ends

}  // namespace engine
