// What a model costs, known before anything runs: its arithmetic and its memory.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/plan.h"

namespace engine {

// Multiply-accumulates of one image's forward: convolutions, linear layers, squeeze-excites. A
// training step takes about three times as many.
int64_t multiply_accumulates(const Graph& graph);

// The parts of a plan's memory by name, in bytes; those that it has.
std::vector<std::pair<std::string, size_t>> memory_rows(const Plan::Totals& totals);

// The same as lines of a table, with the sum.
std::string memory_table(const Plan::Totals& totals);

}  // namespace engine
