#include "tests/tools/engine/program.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "tests/json.h"
#include "tests/support.h"

namespace engine::test {

namespace {

Outcome outcome_of(const std::string& command) {
  const TemporaryFolder folder;
  const std::string out = folder.path() / "out", err = folder.path() / "err";
  const int status = std::system(fmt::format("{} >{} 2>{}", command, out, err).c_str());
  return {WEXITSTATUS(status), read(out), read(err)};
}

}  // namespace

Outcome engine_cli(const std::string& arguments, const std::string& variables) {
  return outcome_of(fmt::format("{} {} {}", variables, ENGINE_PROGRAM, arguments));
}

Outcome run_script(const std::string& script) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "script";
  write_text(file, script);
  return outcome_of(fmt::format("engine='{}' bash {}", ENGINE_PROGRAM, file.string()));
}

void check_fails(const Outcome& outcome, int code, const std::string& why) {
  CHECK(outcome.code == code);
  CHECK(mentions(outcome.err, why));
  CHECK(outcome.out.empty());
}

std::vector<nlohmann::json> events(const std::filesystem::path& run, std::string_view kind) {
  std::vector<nlohmann::json> found;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);)
    if (auto event = parse_json<nlohmann::json>(line); event["event"] == kind)
      found.push_back(std::move(event));
  return found;
}

std::string last_state(const std::filesystem::path& run) {
  const auto saved = events(run, "checkpoint");
  REQUIRE(!saved.empty());
  return saved.back()["state_sha256"];
}

std::vector<std::string> figures(const std::filesystem::path& run) {
  std::ifstream in(run / "results.csv");
  std::vector<std::string> rows;
  for (std::string line, field; std::getline(in, line);) {
    std::istringstream fields(line);
    rows.emplace_back();
    for (int column = 0; column < 9 && std::getline(fields, field, ','); ++column)
      if (column != 1) rows.back() += field + ',';
  }
  return rows;
}

}  // namespace engine::test
