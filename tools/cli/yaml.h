// Flags in YAML, for people who write them by hand.
#pragma once

#include <string>

namespace engine {

// A mapping of flags to values, or to lists of them, as the JSON object that Config holds. Every
// value becomes the text that a command line would have; dashes in names become underscores. Where
// the text is from begins the message of an Error(usage).
std::string json_from_yaml(const std::string& text, const std::string& from);

}  // namespace engine
