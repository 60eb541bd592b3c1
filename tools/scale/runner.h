// Runs configurations of a study, one at a time. What does not fit or fails is a row, too. Under a
// launcher every process has such a runner, and calls the same in the same order.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/needs.h"
#include "io/data/dataset.h"
#include "tools/bench/step.h"
#include "tools/machine/device.h"
#include "tools/scale/runs.h"
#include "tools/scale/site.h"
#include "tools/scale/study.h"

namespace engine {

// The processes that a study runs in, with as many ranks as its largest configuration that this
// machine can run.
Ranks join_study(const Study& study);

class StudyRunner {
 public:
  // Reads the data set, and asks every device what is free before anything runs.
  StudyRunner(const Study& study, const Ranks& joined);

  // The row of a configuration and repeat, without what is measured.
  RunRow planned(const Configuration& configuration, int repeat) const;
  // Measures it. What a backend chose first is kept, in the other repeats and for every number of
  // ranks with the same batch of a rank. One rank is measured by process 0 while the others wait.
  // What fails on ranks of several processes is thrown, since they cannot go on together.
  RunRow run(const Configuration& configuration, int repeat);

  // A rank has the same cores in every configuration: those that it has in the largest one.
  Ranks ranks_of(const Configuration& configuration) const;

  int classes() const;  // of the data set, else what the flags say; 0: each model's own
  const std::vector<std::string>& hardware() const;  // of every rank of this process
  const std::vector<Standing>& processes() const { return processes_; }

 private:
  StepBench bench_of(const Configuration& configuration) const;
  // Whether ranks of all processes run it together; else it is process 0's.
  bool together(const Configuration& configuration) const;
  std::span<const Standing> where_runs(const Configuration& configuration) const;
  int local_ranks(const Configuration& configuration) const;  // in each process that runs it
  // Whether it does; row.memory_mib_per_rank is what the rank that needs most takes.
  bool fits(const Configuration& configuration, RunRow& row) const;
  StepTimes measure(const Configuration& configuration);
  void add_processes(StepTimes& times, const Configuration& configuration) const;
  RunRow attempt(const Configuration& configuration, int repeat);
  RunRow run_together(const Configuration& configuration, int repeat);

  Study study_;
  Ranks joined_;
  std::vector<Standing> processes_;
  int mine_ = 0;  // which of them this one is
  std::optional<Dataset> data_;
  DeviceLimits limits_;
  std::map<std::string, std::map<std::string, std::string>> algorithms_;  // by a rank's step
};

}  // namespace engine
