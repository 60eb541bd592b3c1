#include "tools/engine/slurm_script.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <regex>

#include "engine/error.h"
#include "tools/cli/options.h"
#include "tools/cli/shell.h"
#include "tools/train/train_options.h"

namespace engine {
namespace {

using Words = std::vector<std::string>;

// All that engine train calls a flag.
Words names_of(const std::string& flag) {
  TrainOptions options;
  const Flags flags(options);
  for (const Flag& known : flags.list())
    if (std::ranges::find(known.names, flag) != known.names.end()) return known.names;
  return {flag};
}

// The value of `--flag value` or `--flag=value`, the last of several.
std::optional<std::string> value_of(const Words& words, const std::string& flag) {
  std::optional<std::string> value;
  for (const std::string& name : names_of(flag))
    for (size_t i = 0; i < words.size(); ++i) {
      if (words[i] == name && i + 1 < words.size()) value = words[i + 1];
      if (words[i].starts_with(name + '=')) value = words[i].substr(name.size() + 1);
    }
  return value;
}

// Adds the flag, or makes sure that it says so already.
void set_flag(Words& words, const std::string& flag, const std::string& value,
              std::string_view why) {
  const auto given = value_of(words, flag);
  require(!given || *given == value, Failure::usage, "{} {}: {} wants {}", flag, given.value_or(""),
          why, value);
  if (!given) words.insert(words.end(), {flag, value});
}

void complete_command(const SlurmJob& job, Words& words) {
  require(!words.empty(), Failure::usage,
          "nothing to run: engine slurm [flags] -- train --data DIR --out RUN …");
  const int local = job.per_rank ? 1 : job.gpus > 0 ? job.gpus : job.ranks;
  if (job.gpus > 0)
    set_flag(words, "--gpus", std::to_string(local), "the job's layout");
  else
    set_flag(words, "--device", "cpu", "a job without GPUs");
  if (job.gpus == 0) set_flag(words, "--ranks", std::to_string(local), "the job's layout");
  const std::string& verb = words.front();
  if (verb != "train" && verb != "finetune") return;
  const int ranks = job.gpus > 0 ? job.gpus : job.ranks;
  require(verb == "train" || (job.nodes == 1 && (!job.per_rank || ranks == 1)), Failure::usage,
          "finetune chooses in one process: give the job the engine train command that it prints");
  require(value_of(words, "--out").has_value(), Failure::usage,
          "{} without --out: a job that is queued again must find its run", verb);
  if (!value_of(words, "--resume")) words.insert(words.end(), {"--resume", "auto"});
}

// As sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on.
bool is_duration(const std::string& text) {
  static const std::regex form(R"((\d+-)?\d+(:\d+){0,2}|infinite|UNLIMITED)", std::regex::icase);
  return std::regex_match(text, form);
}

bool is_size(const std::string& text) {
  static const std::regex form(R"(\d+[KMGT]?)", std::regex::icase);
  return std::regex_match(text, form);
}

std::string header(const SlurmJob& job) {
  std::string text = "#!/bin/bash\n";
  const auto add = [&](std::string_view flag, const auto& value) {
    const std::string line = fmt::format("#SBATCH --{}={}\n", flag, value);
    require(std::ranges::count(line, '\n') == 1, Failure::usage, "--{}: of one line", flag);
    text += line;
  };
  const auto add_given = [&](std::string_view flag, const std::string& value) {
    if (!value.empty()) add(flag, value);
  };
  require(is_duration(job.time), Failure::usage,
          "--time {}: it is minutes, hours:minutes:seconds or days-hours:minutes:seconds",
          job.time);
  require(job.memory.empty() || is_size(job.memory), Failure::usage,
          "--memory {}: it is a number with K, M, G or T", job.memory);
  const int ranks = job.gpus > 0 ? job.gpus : job.ranks;
  add("job-name", job.name);
  add("nodes", job.nodes);
  add("ntasks-per-node", job.per_rank ? ranks : 1);
  add("cpus-per-task", job.per_rank ? job.cores : job.cores * ranks);
  if (job.gpus > 0) add("gpus-per-node", job.gpus);
  add("time", job.time);
  add_given("mem", job.memory);
  add_given("partition", job.partition);
  add_given("account", job.account);
  add_given("qos", job.qos);
  add_given("constraint", job.constraint);
  add("output", job.output);
  text += "#SBATCH --open-mode=append\n";
  add("signal", fmt::format("B:USR1@{}", job.warning));
  text += job.requeue ? "#SBATCH --requeue\n" : "#SBATCH --no-requeue\n";
  return text;
}

// The processes get the signals that the batch shell gets. A wait that a signal has ended is
// repeated: the shell remembers how the processes ended.
constexpr std::string_view kWait = R"(step=$!

# Before the time is up, or when the job is preempted or cancelled, the run saves and exits with 75.
warned=
pass_on() {
  caught=1
  kill -s "$1" "$step" 2> /dev/null
}
trap 'warned=1; pass_on USR1' USR1
trap 'pass_on TERM' TERM
while :; do
  caught=
  wait "$step"
  code=$?
  [[ -n $caught ]] || break
done
)";

// A job that a signal has warned, and one that is preempted but ends within its grace, which Slurm
// would take for done. One that is cancelled stays away.
constexpr std::string_view kRequeue = R"(if ((code == 75)); then
  job=$SLURM_JOB_ID
  [[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  if [[ -n $warned ]] || scontrol show job "$job" | grep -q ' PreemptTime=[0-9]'; then
    scontrol requeue "$job"
  fi
fi
)";

}  // namespace

std::string slurm_script(const SlurmJob& job, const std::string& program, Words words) {
  complete_command(job, words);
  std::string text = header(job) + '\n';
  if (!job.modules.empty()) text += fmt::format("module load {}\n", fmt::join(job.modules, " "));
  for (const std::string& line : job.setup) text += line + '\n';
  text +=
      "# The ranks meet at the first node, at a port that no other job takes.\n"
      "export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)\n"
      "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))\n\n";
  text +=
      fmt::format("srun --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" \\\n  {}", shell_word(program));
  for (const std::string& word : words) {
    const bool flag = word.starts_with("--") && word.size() > 2;
    text += (flag ? " \\\n    " : " ") + shell_word(word);
  }
  text += " &\n";
  text += kWait;
  if (job.requeue) text += kRequeue;
  return text + "exit \"$code\"\n";
}

}  // namespace engine
