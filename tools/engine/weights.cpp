// engine weights list, fetch and verify: the published weight files, and whether a file is as they
// are.
#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "io/weights/fetch.h"
#include "io/weights/manifest.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"
#include "tools/score/published.h"

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

struct ListOptions {
  std::optional<std::filesystem::path> manifest;
  void visit(auto& v) {
    v("--manifest FILE", manifest, "another list than the one that comes with the program");
  }
};

struct FetchVerbOptions : ListOptions {
  std::vector<std::string> names;
  void visit(auto& v) {
    v("NAMES", names, "names of engine weights list, or models, whose first file is meant",
      kRequired);
    ListOptions::visit(v);
  }
};

std::vector<ManifestEntry> manifest_of(const ListOptions& options) {
  return read_manifest(options.manifest.value_or(shared_file("manifest.json")));
}

std::string size_text(double value, std::string_view unit) {
  return value > 0 ? fmt::format("{:.1f}{}", value, unit) : "-";
}

}  // namespace

int list_weights(const Command& command) {
  const auto options = parse_options<ListOptions>(command);
  if (!options) return 0;
  static constexpr char kRow[] = "{:<40} {:<16} {:>10} {:>6}  {:<13} {}\n";
  std::string text = fmt::format(kRow, "name", "model", "size", "top-1", "licence", "here");
  for (const ManifestEntry& entry : manifest_of(*options)) {
    std::error_code error;
    const bool here = std::filesystem::exists(place_of(entry, weights_folder()), error);
    text += fmt::format(kRow, entry.names.front(), entry.model, size_text(entry.mib, " MiB"),
                        size_text(entry.top1, ""), entry.licence, here ? "yes" : "no");
  }
  print_to_stdout(text);
  return 0;
}

int fetch_weights(const Command& command) {
  const auto options = parse_options<FetchVerbOptions>(command);
  if (!options) return 0;
  const std::vector<ManifestEntry> manifest = manifest_of(*options);
  std::vector<const ManifestEntry*> entries;
  for (const std::string& name : options->names) {
    entries.push_back(find_entry(manifest, name, ""));
    require(entries.back(), Failure::usage, "{}: no such name; engine weights list shows all",
            name);
  }
  catch_stop_signals();
  for (const ManifestEntry* entry : entries)
    print_to_stdout(fetch_published(*entry).string() + '\n');
  return 0;
}

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
