#include "tests/tools/plots/python.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/support.h"

namespace engine::test {

namespace fs = std::filesystem;

int python(const std::string& arguments, const fs::path& out) {
  const char* chosen = std::getenv("ENGINE_PYTHON");
  const std::string command =
      fmt::format("PYTHONDONTWRITEBYTECODE=1 {} {} >'{}' 2>&1",
                  chosen ? chosen : "/usr/bin/python3", arguments, out.string());
  INFO(command);
  return std::system(command.c_str());
}

void check_png(const fs::path& file) {
  INFO(file.string());
  CHECK(read(file).starts_with("\x89PNG\r\n"));
}

}  // namespace engine::test
