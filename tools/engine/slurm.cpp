// engine slurm: an sbatch script for one or several nodes, printed or submitted.
#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "engine/error.h"
#include "tools/cli/list.h"
#include "tools/cli/terminal.h"
#include "tools/engine/slurm_script.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct SlurmOptions {
  SlurmJob job;
  std::string modules;
  std::vector<std::string> words;
  bool submit = false, no_requeue = false;

  void visit(auto& v) {
    v("COMMAND", words, "what the job runs, behind --: train --data DIR --out RUN …");
    v.group("The job");
    v("--nodes N", job.nodes, "machines", Within{1, 65536});
    v("--gpus-per-node N", job.gpus, "ranks of each machine; 0: it computes on CPUs",
      Within{0, 64});
    v("--ranks-per-node N", job.ranks, "ranks of each machine that computes on CPUs",
      Within{1, 1024});
    v("--cores-per-rank N", job.cores, "to load images with, and to compute with on CPUs",
      Within{1, 1024});
    v("--process-per-rank", job.per_rank,
      "a process to each rank, which isolates faults; else one to each machine");
    v("--time LIMIT", job.time, "of each stay on the machines: [days-]hours:minutes:seconds");
    v("--memory SIZE", job.memory, "of each machine: 64G");
    v("--job-name NAME", job.name, "as squeue shows it");
    v("--partition NAME", job.partition, "where it runs");
    v("--account NAME", job.account, "who pays");
    v("--qos NAME", job.qos, "quality of service");
    v("--constraint LIST", job.constraint, "features of the machines");
    v("--output FILE", job.output, "what it says; %x: its name, %j: its number");
    v.group("Its course");
    v("--warning SECONDS", job.warning, "how long before its end it is told to save",
      Within{10, 3600});
    v("--no-requeue", no_requeue, "end when the time is up, instead of going on in a new stay");
    v("--modules LIST", modules, "for `module load`, with commas between");
    v("--setup LINE", job.setup, "a line of the script before the run; may be repeated");
    v.group("What happens");
    v("--submit", submit, "hand the script to this machine's sbatch instead of printing it");
  }
};

int hand_to_sbatch(const std::string& script) {
  std::unique_ptr<FILE, int (*)(FILE*)> sbatch(popen("sbatch", "w"), pclose);
  require(sbatch != nullptr, Failure::internal, "sbatch cannot be started");
  std::fwrite(script.data(), 1, script.size(), sbatch.get());
  const int status = pclose(sbatch.release());
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, Failure::usage,
          "sbatch refused the job; without --submit the script is printed");
  return 0;
}

}  // namespace

int slurm(const Command& command) {
  auto options = parse_options<SlurmOptions>(command);
  if (!options) return 0;
  SlurmOptions& o = *options;
  o.job.requeue = !o.no_requeue;
  if (!o.modules.empty()) o.job.modules = split_list(o.modules);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string script = slurm_script(o.job, program, std::move(o.words));
  if (o.submit) return hand_to_sbatch(script);
  print_to_stdout(script);
  return 0;
}

}  // namespace engine
