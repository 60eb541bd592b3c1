// Our scripts as a shell runs them, and what they write.
#pragma once

#include <filesystem>
#include <string>

#include "tests/support.h"

namespace engine::test {

// Runs $ENGINE_PYTHON, else Debian's; both streams go to `out`. Returns the status of std::system.
int python(const std::string& arguments, const std::filesystem::path& out);

void check_png(const std::filesystem::path& file);

}  // namespace engine::test
