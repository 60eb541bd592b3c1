// The program as scripts see it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace engine::test {

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome engine_cli(const std::string& arguments);  // as a shell reads them
std::string read(const std::filesystem::path& file);

// The columns of a run's results.csv that no clock and no machine has a part in.
std::vector<std::string> figures(const std::filesystem::path& run);

}  // namespace engine::test
