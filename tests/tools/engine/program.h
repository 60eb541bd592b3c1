// The program as scripts see it: its exit code, and what it writes to stdout, stderr and files.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support.h"

namespace engine::test {

struct Outcome {
  int code = -1;
  std::string out, err;
};

// Starts the program; `arguments` as a shell reads them, and variables for it, "NAME=value …".
Outcome engine_cli(const std::string& arguments, const std::string& variables = "");
// Runs a script of bash's, which calls "$engine": its exit code, and what it wrote.
Outcome run_script(const std::string& script);
// CHECKs the exit code, that stderr mentions `why`, and that stdout is empty.
void check_fails(const Outcome& outcome, int code, const std::string& why);

// The events of that kind in a run's metrics.jsonl, in order.
std::vector<nlohmann::json> events(const std::filesystem::path& run, std::string_view kind);
// The digest of the state that a run saved last; it must have saved one.
std::string last_state(const std::filesystem::path& run);

// The columns of a run's results.csv that depend on no clock and no machine.
std::vector<std::string> figures(const std::filesystem::path& run);

}  // namespace engine::test
