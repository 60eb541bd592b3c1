// engine weights verify: reads weight files whole, compares them with the list of published ones.
#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "io/weights/manifest.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

struct VerifyOptions {
  std::vector<std::string> files;
  std::optional<std::filesystem::path> manifest;
  void visit(auto& v) {
    v("FILES", files, "weight files, known by their names", kRequired);
    v("--manifest FILE", manifest, "another list than the one that comes with the program");
  }
};

void print_report(const std::string& file, const WeightReport& report) {
  print_to_stdout(fmt::format("{}\n  sha256      {}\n  tensors     {}\n  parameters  {}\n", file,
                              report.sha256, report.tensors, report.parameters));
  if (report.entry)
    print_to_stdout(fmt::format("  model       {}\n  licence     {}\n  source      {}\n",
                                report.entry->model, report.entry->licence, report.entry->source));
  const char* verdict = !report.entry             ? "readable; not in the list of published files"
                        : report.problems.empty() ? "as published"
                                                  : "not as published";
  print_to_stdout(fmt::format("  result      {}\n", verdict));
}

}  // namespace

int verify_weights(const Command& command) {
  const auto options = parse_options<VerifyOptions>(command);
  if (!options) return 0;
  const std::vector<ManifestEntry> manifest =
      read_manifest(options->manifest.value_or(shared_file("manifest.json")));
  int code = 0;
  for (const std::string& file : options->files) {
    const WeightReport report = verify_weights(file, manifest);
    print_report(file, report);
    for (const std::string& problem : report.problems) {
      say(fmt::format("{}: {}", file, problem));
      code = static_cast<int>(Failure::check);
    }
  }
  return code;
}

}  // namespace engine
