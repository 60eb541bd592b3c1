// The report of kernel times: what each costs a training step and how near it is to the GPU's
// ceilings.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/cuda/bench.h"

namespace engine {

// One object: GPU, ceilings, kernels by their share of a step. Under a filter only these kernels
// were measured: there are no ceilings, no step and no shares of it.
nlohmann::ordered_json kernel_json(const KernelTimes& times);

// What ran alone under a filter: a line per launch.
std::string filtered_table(const KernelTimes& times);

// Kernels summed over their shapes, then the `rows` shapes with the largest share.
std::string kernel_table(const KernelTimes& times, int rows);

}  // namespace engine
