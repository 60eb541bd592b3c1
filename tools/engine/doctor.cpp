// engine doctor: what this machine lacks or limits; exit code 8 if something will fail.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/json.h"
#include "tools/engine/verbs.h"
#include "tools/machine/doctor.h"

namespace engine {
namespace {

struct DoctorOptions {
  bool json = false;
  void visit(auto& v) { v("--json", json, "one JSON object per finding"); }
};

std::string_view name_of(Finding::Kind kind) {
  return kind == Finding::Kind::good ? "ok" : kind == Finding::Kind::warning ? "warn" : "fail";
}

std::string line(const Finding& finding, bool as_json) {
  const std::string_view result = name_of(finding.kind);
  if (as_json)
    return print_json(nlohmann::ordered_json{
               {"result", result}, {"what", finding.what}, {"detail", finding.detail}}) +
           '\n';
  std::string mark = fmt::format("{:<5}", result);
  if (finding.kind == Finding::Kind::failure) mark = paint(mark, Colour::red, stdout);
  if (finding.kind == Finding::Kind::warning) mark = paint(mark, Colour::yellow, stdout);
  return fmt::format("{} {:<14} {}\n", mark, finding.what, finding.detail);
}

}  // namespace

int doctor(const Command& command) {
  const auto options = parse_options<DoctorOptions>(command);
  if (!options) return 0;
  const std::vector<Finding> findings = examine(this_machine());
  for (const Finding& finding : findings) print_to_stdout(line(finding, options->json));
  const bool failed = std::any_of(findings.begin(), findings.end(), [](const Finding& f) {
    return f.kind == Finding::Kind::failure;
  });
  return failed ? static_cast<int>(Failure::check) : 0;
}

}  // namespace engine
