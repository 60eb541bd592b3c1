// Flags as text beyond their help: which of them a command line gives, and the words that give
// them.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "tools/cli/options.h"

namespace engine {

// " (default 64; at least 1)": default, range and choices; empty if there are none.
std::string notes_of(const Flag& flag);

// As parse_flags(); returns the keys of all flags that were given a value.
std::set<std::string> parse_given_flags(const Flags& flags, std::span<const std::string> arguments,
                                        const std::optional<Config>& config = std::nullopt);

// The words of a command line that give the flags with these keys the values that they have.
std::vector<std::string> words_of(const Flags& flags, const std::set<std::string>& keys);

}  // namespace engine
