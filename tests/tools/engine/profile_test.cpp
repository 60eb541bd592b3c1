// engine profile: its files as others read them, and mistakes.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "io/files/csv.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* kStart =
    "profile --model mnist_cnn --device cpu --threads 1 --batch-size 4 --steps 2 --warmup 1 ";

}  // namespace

TEST_CASE("profile: tables for people, three files for others, which agree") {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "a" / "profile";
  const Outcome outcome = engine_cli(fmt::format("{} --out {}", kStart, out.string()));
  REQUIRE(outcome.code == 0);
  for (const char* part :
       {"kind", "direction", "layer", "memory", "roofline", "inefficiency", "gaps between launches",
        "exposed communication", "waiting for data", "not accounted", "ten worst layers"})
    CHECK(mentions(outcome.out, part));

  const Csv csv = read_csv(out / "profile.csv");
  const json profile = parse_json<json>(read(out / "profile.json"));
  CHECK(csv.rows.size() == profile["launches"].get<size_t>());
  std::map<std::string, double> by_kind;
  for (const CsvRow& row : csv.rows)
    by_kind[row.fields[csv.column("kind")]] += std::stod(row.fields[csv.column("ms")]);
  CHECK(by_kind.size() == profile["by_kind"].size());
  for (const json& kind : profile["by_kind"])
    CHECK(by_kind.at(kind["name"]) == doctest::Approx(kind["ms"].get<double>()).epsilon(0.01));
  CHECK(profile["by_direction"].size() == 3);
  CHECK(profile["memory_mib"]["activations"].get<double>() > 0);
  const json& gaps = profile["gaps"];
  double sum = 0;
  for (const char* part : {"roofline_ms", "inefficiency_ms", "gaps_ms", "exposed_all_reduce_ms",
                           "waiting_ms", "not_accounted_ms"})
    sum += gaps[part].get<double>();
  CHECK(sum == doctest::Approx(gaps["step_ms"].get<double>()));
  CHECK(gaps["worst_layers"].size() <= 10);

  std::set<int> launches;
  const json trace = parse_json<json>(read(out / "trace.json"));
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    CHECK(event["dur"].get<double>() >= 0);
    CHECK(event["ts"].get<double>() >= 0);
    if (event.contains("args")) launches.insert(event["args"]["launch"].get<int>());
  }
  CHECK(launches.size() == csv.rows.size());
}

TEST_CASE("profile --json prints what profile.json holds") {
  const Outcome outcome = engine_cli(fmt::format("{} --ranks 2 --threads 2 --json", kStart));
  REQUIRE(outcome.code == 0);
  const json profile = parse_json<json>(outcome.out);
  CHECK(profile["ranks"] == 2);
  CHECK(profile["gaps"]["all_reduce"]["buckets"].get<int>() > 0);
}

TEST_CASE("bench step --gaps adds the report to each configuration") {
  const Outcome outcome = engine_cli(
      "bench step --model mnist_cnn --device cpu --threads 1 --batch-size 2,4 --steps 2 --warmup 1 "
      "--gaps --json");
  REQUIRE(outcome.code == 0);
  const size_t line = outcome.out.find('\n');
  for (const std::string& text : {outcome.out.substr(0, line), outcome.out.substr(line + 1)})
    CHECK(parse_json<json>(text)["gaps"]["step_ms"].get<double>() > 0);
}

TEST_CASE("profile, gaps and filter: mistakes are said in one line") {
  check_fails(engine_cli(fmt::format("{} --nvtx", kStart)), 2, "--nvtx needs --device cuda");
  check_fails(engine_cli("profile --model nothing --device cpu"), 2, "nothing");
  check_fails(engine_cli("bench step --mode eval --gaps --device cpu"), 2, "--gaps");
  check_fails(engine_cli("bench kernels --filter depthwise --device cpu"), 2, "it needs a GPU");
}
