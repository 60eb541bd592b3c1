// engine scale: a study of data parallelism over models, ranks, batches and precisions.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/cores.h"
#include "tools/machine/environment.h"
#include "tools/machine/launcher.h"
#include "tools/machine/processes.h"
#include "tools/scale/report.h"
#include "tools/scale/runner.h"

namespace engine {
namespace {

struct ScaleOptions : StudyFlags {
  std::filesystem::path out;
  std::optional<std::filesystem::path> against;
  bool resume = false;

  void visit(auto& v) {
    visit_study(v);
    v.group("Output");
    v("--out DIR", out, "runs.csv, summary.csv, study.json and report.txt", kRequired);
    v("--resume", resume, "go on with the study in --out: only what is missing there runs");
    v("--against DIR", against,
      "published rates, *.json, to stand beside ours (default: of GPUs, those of the program)");
  }
};

std::string outcome(const RunRow& row) {
  return row.ok() ? fmt::format("{:.2f} ms, {:.1f} img/s", row.ms_median, row.images_per_second)
                  : row.status;
}

// Those that come with the program are of GPUs.
std::vector<Rate> published_rates(const ScaleOptions& o, const Study& study) {
  if (o.against) return read_published(*o.against);
  if (study.device != Device::cuda) return {};
  return read_published(shared_file("reference"));
}

// The folder that process 0 writes.
struct StudyFolder {
  StudyFolder(const ScaleOptions& o, const Study& study, const StudyFacts& facts)
      : out(o.out), published(published_rates(o, study)) {
    make_folder(out);
    if (o.resume) check_study(out, facts);
    runs.emplace(out / "runs.csv", o.resume);
    write_study(out, facts);
  }
  void finish(const Study& study, const StudyFacts& facts) const {
    const std::vector<Summary> summaries = summarise(runs->rows(), study.epoch_images);
    const std::string text = report(facts, summaries, published);
    write_file_atomically(out / "summary.csv", summary_csv(summaries));
    write_file_atomically(out / "published.csv", published_csv(published, study.models));
    write_file_atomically(out / "report.txt", text);
    print_to_stdout(text);
  }

  std::filesystem::path out;
  std::vector<Rate> published;
  std::optional<RunsFile> runs;
};

struct StudyJob {
  int repeat = 1;
  Configuration configuration;
};

// The repeats are the outer loop, so that what drifts meets every configuration alike.
std::vector<StudyJob> all_jobs(const Study& study) {
  std::vector<StudyJob> jobs;
  for (int repeat = 1; repeat <= study.repeats; ++repeat)
    for (const Configuration& c : configurations(study)) jobs.push_back({repeat, c});
  return jobs;
}

// Process 0 has the folder, and tells the others what is missing there.
void run_all(const Study& study, StudyRunner& runner, const Ranks& joined, StudyFolder* folder) {
  const std::vector<StudyJob> jobs = all_jobs(study);
  nlohmann::json missing = nlohmann::json::array();
  for (size_t i = 0; folder && i < jobs.size(); ++i)
    if (!folder->runs->has(runner.planned(jobs[i].configuration, jobs[i].repeat)))
      missing.push_back(i);
  for (const size_t i : parse_json<nlohmann::json>(from_process_0(joined, print_json(missing)))) {
    const auto& [repeat, configuration] = jobs[i];
    const RunRow row = runner.run(configuration, repeat);
    if (folder) folder->runs->append(row);
    say(fmt::format("[{}/{}] {}, repeat {}: {}", i + 1, jobs.size(), describe(configuration),
                    repeat, outcome(row)));
  }
}

void scale_on(const Ranks& joined, const ScaleOptions& o, const Study& study) {
  StudyRunner runner(study, joined);
  const StudyFacts facts = facts_of(study, runner.hardware(), runner.classes(),
                                    joined.wire ? describe_processes(runner.processes()) : "");
  std::optional<StudyFolder> folder;
  if (joined.leads()) folder.emplace(o, study, facts);
  run_all(study, runner, joined, folder ? &*folder : nullptr);
  if (folder) folder->finish(study, facts);
}

}  // namespace

int scale(const Command& command) {
  const auto options = parse_options<ScaleOptions>(command);
  if (!options) return 0;
  const Study study =
      study_of(*options, {.automatic = plan_ranks({}, {}).kind,
                          .cores = available_cores(),
                          .processes = read_place(environment_variables()).processes});
  const Ranks joined = join_study(study);
  if (!joined.leads()) fall_silent();
  try {
    scale_on(joined, *options, study);
  } catch (const std::exception& error) {
    tell_others(joined, error);
    throw;
  }
  return 0;
}

}  // namespace engine
