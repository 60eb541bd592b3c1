// The sbatch script of a training job: it asks for its end to be announced, saves then, and puts
// itself into the queue again until training is done.
#pragma once

#include <string>
#include <vector>

namespace engine {

struct SlurmJob {
  std::string name = "engine", time = "24:00:00", partition, account, qos, memory, constraint,
              output = "%x-%j.out";
  int nodes = 1;
  int gpus = 1;           // of each node; 0: the job computes on CPUs
  int cores = 8;          // of each rank
  int ranks = 1;          // of each node, on CPUs; on GPUs there is one to each
  bool per_rank = false;  // a process to each rank, else one to each node, with a thread to each
  bool requeue = true;    // when the run stopped with a checkpoint saved
  int warning = 120;      // seconds between the announcement and the end
  std::vector<std::string> modules;  // for `module load`
  std::vector<std::string> setup;    // lines that run before, as they are
};

// `words` are the program and its arguments, a verb first; what the job decides is added to them:
// devices, and --resume auto. Throws Error(usage) where they say something else, or where a run
// could not be continued because it has no --out.
std::string slurm_script(const SlurmJob& job, const std::string& program,
                         std::vector<std::string> words);

}  // namespace engine
