// Completion scripts for shells, made from the flags of all verbs. They hold a list per verb and
// start no program.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/cli/options.h"

namespace engine {

struct VerbFacts {
  std::string name, about;  // a name may be two words
  std::vector<FlagFacts> flags;
};

enum class Shell { bash, zsh, fish };
std::string completion_script(Shell shell, std::span<const VerbFacts> verbs);

}  // namespace engine
