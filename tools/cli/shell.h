// Words for a shell.
#pragma once

#include <string>
#include <string_view>

namespace engine {

// As a shell reads it back as one word: quoted unless it is plain.
std::string shell_word(std::string_view word);

}  // namespace engine
