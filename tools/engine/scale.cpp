// engine scale: a study of data parallelism over models, ranks, batches and precisions.
#include <fmt/format.h>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/cores.h"
#include "tools/machine/environment.h"
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

// The repeats are the outer loop, so that what drifts meets every configuration alike.
void run_all(const Study& study, StudyRunner& runner, RunsFile& runs) {
  const std::vector<Configuration> all = configurations(study);
  const size_t total = all.size() * size_t(study.repeats);
  size_t at = 0;
  for (int repeat = 1; repeat <= study.repeats; ++repeat)
    for (const Configuration& c : all) {
      ++at;
      if (runs.has(runner.planned(c, repeat))) continue;
      const RunRow row = runner.run(c, repeat);
      runs.append(row);
      say(fmt::format("[{}/{}] {}, repeat {}: {}", at, total, describe(c), repeat, outcome(row)));
    }
}

// Those that come with the program are of GPUs.
std::vector<Rate> published_rates(const ScaleOptions& o, const Study& study) {
  if (o.against) return read_published(*o.against);
  if (study.device != Device::cuda) return {};
  return read_published(shared_file("reference"));
}

}  // namespace

int scale(const Command& command) {
  const auto options = parse_options<ScaleOptions>(command);
  if (!options) return 0;
  const ScaleOptions& o = *options;
  const Study study = study_of(o, {.automatic = choose_ranks({}).kind, .cores = available_cores()});
  const std::vector<Rate> published = published_rates(o, study);
  StudyRunner runner(study);
  const StudyFacts facts = facts_of(study, runner.hardware(), runner.classes());
  make_folder(o.out);
  if (o.resume) check_study(o.out, facts);
  RunsFile runs(o.out / "runs.csv", o.resume);
  write_study(o.out, facts);
  run_all(study, runner, runs);

  const std::vector<Summary> summaries = summarise(runs.rows(), study.epoch_images);
  const std::string text = report(facts, summaries, published);
  write_file_atomically(o.out / "summary.csv", summary_csv(summaries));
  write_file_atomically(o.out / "published.csv", published_csv(published, study.models));
  write_file_atomically(o.out / "report.txt", text);
  print_to_stdout(text);
  return 0;
}

}  // namespace engine
