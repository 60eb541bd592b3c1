// The gate before a measurement: every step on the device beside plain loops on the same inputs.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/rig.h"

namespace engine {

struct StepCheck {
  int step = 0;
  std::string name;
  double error = 0;   // the worst relative L2 error of what it wrote, in units of what is allowed
  std::string worst;  // which of them
  bool passed() const { return error <= 1; }  // not if it is no number
};

// Runs a training step of `options.batch` images on the backend; checks the steps in `wanted`.
std::vector<StepCheck> check_steps(const Graph& graph, Backend& backend, const PlanOptions& options,
                                   const std::vector<int>& wanted);

}  // namespace engine
