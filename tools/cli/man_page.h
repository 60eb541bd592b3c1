// The manual page of the program, made from the flags of all verbs.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "tools/cli/completion.h"

namespace engine {

struct ExitCode {
  int code;
  std::string_view meaning;
};

// Source for man(1), in ASCII but for words that are not. What a verb has in common with the first
// one, flags of the same names and help, is listed by name there.
std::string man_page(std::string_view version, std::span<const VerbFacts> verbs,
                     std::span<const ExitCode> codes);

}  // namespace engine
