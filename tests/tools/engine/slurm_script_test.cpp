// The sbatch script: what it asks for, and what it does when it is told to stop, run by bash with
// an srun and a scontrol of our own.
#include "tools/engine/slurm_script.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

const std::vector<std::string> kTrain = {"train", "--data", "two words", "--out", "run"};

bool has_line(const std::string& script, const std::string& line) {
  return ("\n" + script).find("\n" + line + "\n") != std::string::npos;
}

void write_program(const fs::path& file, const std::string& text) {
  std::ofstream(file) << "#!/bin/bash\n" << text;
  fs::permissions(file, fs::perms::owner_all);
}

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Runs the script in `folder`, whose programs are found first. Sends it `signal`, if any, as soon
// as the folder has a file `started`; returns its exit code.
int run_script(const fs::path& folder, const std::string& script, int signal) {
  std::ofstream(folder / "job.sh") << script;
  const pid_t child = fork();
  if (child == 0) {
    const std::string path = folder.string() + ":" + getenv("PATH");
    setenv("PATH", path.c_str(), 1);
    setenv("SLURM_JOB_ID", "42", 1);
    setenv("SLURM_JOB_NODELIST", "n1", 1);
    setenv("SLURM_CPUS_PER_TASK", "3", 1);
    fs::current_path(folder);
    execlp("bash", "bash", "job.sh", nullptr);
    _exit(126);
  }
  while (signal != 0 && !fs::exists(folder / "started"))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  if (signal != 0) kill(child, signal);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// A folder with an srun of that body and a scontrol that notes what it is asked to do.
class SlurmFolder {
 public:
  explicit SlurmFolder(const std::string& srun, const std::string& preempt_time = "None") {
    write_program(path() / "srun", srun);
    write_program(path() / "scontrol",
                  "case \"$1 $2\" in\n\"show hostnames\") echo n1 ;;\n"
                  "\"show job\") echo \"   PreemptEligibleTime=2026-11-28T22:29"
                  ":55 PreemptTime=" +
                      preempt_time +
                      "\" ;;\n"
                      "*) echo \"$*\" >> scontrol.calls ;;\nesac\n");
  }
  const fs::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("a job of two machines with four GPUs each") {
  const std::string script = slurm_script(
      {.time = "1-00:00:00", .nodes = 2, .gpus = 4, .cores = 12, .modules = {"cuda/13.0", "nccl"}},
      "/opt/engine/bin/engine", kTrain);
  for (const char* line :
       {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --cpus-per-task=48",
        "#SBATCH --gpus-per-node=4", "#SBATCH --time=1-00:00:00", "#SBATCH --signal=B:USR1@120",
        "#SBATCH --requeue", "#SBATCH --open-mode=append", "module load cuda/13.0 nccl",
        "    --data 'two words' \\", "    --gpus 4 \\", "    --resume auto &"})
    CHECK_MESSAGE(has_line(script, line), line << " is not in\n" << script);
  CHECK(script.find("partition") == std::string::npos);
}

TEST_CASE("a process to each rank, and ranks on CPUs") {
  const std::string gpus =
      slurm_script({.gpus = 4, .cores = 12, .per_rank = true}, "engine", kTrain);
  CHECK(has_line(gpus, "#SBATCH --ntasks-per-node=4"));
  CHECK(has_line(gpus, "#SBATCH --cpus-per-task=12"));
  CHECK(has_line(gpus, "    --gpus 1 \\"));
  const std::string cpus =
      slurm_script({.gpus = 0, .cores = 2, .ranks = 3, .requeue = false}, "engine", kTrain);
  CHECK(has_line(cpus, "#SBATCH --cpus-per-task=6"));
  CHECK(has_line(cpus, "    --device cpu \\"));
  CHECK(has_line(cpus, "    --ranks 3 \\"));
  CHECK(has_line(cpus, "#SBATCH --no-requeue"));
  CHECK(cpus.find("scontrol requeue") == std::string::npos);
  CHECK(cpus.find("gpus") == std::string::npos);
}

TEST_CASE("commands that contradict the job, or could not be continued, are refused") {
  CHECK_THROWS_AS(slurm_script({}, "engine", {}), Error);
  CHECK_THROWS_AS(slurm_script({}, "engine", {"train", "--data", "d"}), Error);
  CHECK_THROWS_AS(slurm_script({.gpus = 2}, "engine", {"train", "--out", "r", "--gpus=4"}), Error);
  CHECK_THROWS_AS(slurm_script({.gpus = 0}, "engine", {"train", "--out", "r", "--device", "cuda"}),
                  Error);
  CHECK_NOTHROW(slurm_script({.gpus = 2}, "engine", {"train", "--out", "r", "--gpus=2"}));
  CHECK_NOTHROW(slurm_script({}, "engine", {"train", "--output", "r"}));
  for (const char* time : {"banana", "1:2:3:4", "", "1-"})
    CHECK_THROWS_AS(slurm_script({.time = time}, "engine", kTrain), Error);
  for (const char* time : {"90", "1:30:00", "2-12", "2-12:00:00", "UNLIMITED"})
    CHECK_NOTHROW(slurm_script({.time = time}, "engine", kTrain));
  CHECK_THROWS_AS(slurm_script({.memory = "lots"}, "engine", kTrain), Error);
  CHECK_THROWS_AS(slurm_script({.name = "a\ntouch x"}, "engine", kTrain), Error);
  const std::vector<std::string> finetune = {"finetune", "d", "--out", "r"};
  CHECK(slurm_script({.gpus = 2}, "engine", finetune).find("--resume") != std::string::npos);
  CHECK_THROWS_AS(slurm_script({.nodes = 2}, "engine", finetune), Error);
  CHECK_THROWS_AS(slurm_script({.gpus = 2, .per_rank = true}, "engine", finetune), Error);
}

TEST_CASE("the job ends as the run ends") {
  const SlurmFolder folder("printf '%s\\n' \"$@\" > srun.words; exit 5\n");
  CHECK(run_script(folder.path(), slurm_script({.gpus = 0}, "engine", kTrain), 0) == 5);
  CHECK(text_of(folder.path() / "srun.words") ==
        "--cpus-per-task=3\nengine\ntrain\n--data\ntwo words\n--out\nrun\n--device\ncpu\n--ranks\n"
        "1\n--resume\nauto\n");
  CHECK_FALSE(fs::exists(folder.path() / "scontrol.calls"));
}

TEST_CASE("signals reach the run; one that saved is queued again unless it was cancelled") {
  // Slow to save: the shell's first wait ends before it.
  const std::string saves =
      "trap 'sleep 0.2; echo $$ > saved; exit 75' USR1 TERM\n"
      "touch started\nwhile :; do sleep 0.01; done\n";
  struct Case {
    int signal;
    const char *preempt_time, *calls;
  };
  for (const Case& c : {Case{SIGUSR1, "None", "requeue 42\n"}, Case{SIGTERM, "None", ""},
                        Case{SIGTERM, "2026-11-28T22:30:02", "requeue 42\n"}}) {
    const SlurmFolder folder(saves, c.preempt_time);
    CHECK(run_script(folder.path(), slurm_script({.gpus = 0}, "engine", kTrain), c.signal) == 75);
    CHECK(fs::exists(folder.path() / "saved"));
    CHECK(text_of(folder.path() / "scontrol.calls") == c.calls);
  }
}
