// Runs configurations of a study, one at a time. What does not fit or fails is a row, too.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/needs.h"
#include "io/data/dataset.h"
#include "tools/bench/step.h"
#include "tools/scale/runs.h"
#include "tools/scale/study.h"

namespace engine {

class StudyRunner {
 public:
  // Reads the data set, and asks every device what is free before anything runs.
  explicit StudyRunner(const Study& study);

  // The row of a configuration and repeat, without what is measured.
  RunRow planned(const Configuration& configuration, int repeat) const;
  // Measures it. What its backend chose in the first repeat is kept in the others.
  RunRow run(const Configuration& configuration, int repeat);

  int classes() const;  // of the data set, else what the flags say; 0: each model's own
  const std::vector<std::string>& hardware() const { return hardware_; }  // of every rank

 private:
  StepBench bench_of(const Configuration& configuration) const;
  DeviceOptions device_of(const Configuration& configuration) const;
  size_t needed_bytes(const Configuration& configuration) const;  // of the rank that needs most
  bool fits(const Configuration& configuration, size_t bytes) const;
  StepTimes measure(const Configuration& configuration);

  Study study_;
  std::optional<Dataset> data_;
  BackendKind kind_ = BackendKind::cpu;
  DeviceLimits limits_;
  size_t free_bytes_ = 0;  // of the fullest device
  std::vector<std::string> hardware_;
  std::map<std::string, std::map<std::string, std::string>> algorithms_;  // by configuration
};

}  // namespace engine
