// summary.csv: what the repeats of a configuration say together, beside one rank.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/scale/runs.h"
#include "tools/scale/statistics.h"

namespace engine {

// Where the time goes that a rank of several needs more than one rank alone, as shares of the step:
// efficiency and losses add up to 1. A negative loss is a gain. Where independent ranks were
// measured, what they lose is the host's, and all the rest but data is the all-reduce's, which
// waits then for no rank that the host has slowed.
struct Losses {
  double data = 0, all_reduce = 0;
  double host = kNotMeasured;
  double rest = 0;  // computation, optimizer and what lies between the parts
};

struct Summary {
  RunRow mean;      // the columns that the repeats share, and means of the others; status of all
  int repeats = 0;  // that are ok
  std::map<int, double> rates;                    // images per second of each of these
  MeanInterval rate{kNotMeasured, kNotMeasured};  // images per second
  // Beside one rank that computes the same batch: of weak scaling the batch of a rank, of strong
  // scaling the global one. Nothing where that was not measured.
  std::optional<MeanInterval> speed_up, efficiency;
  double median_efficiency = kNotMeasured;  // of the repeats, each beside one rank's of its turn
  std::optional<Losses> losses;
  std::string superlinear;  // likely cause of an efficiency above 100%; empty if it is not
  bool best = false;        // the highest rate of its model
  double hours_per_epoch = kNotMeasured;
};

// In the order in which configurations appear first; `epoch_images` 0: not known.
std::vector<Summary> summarise(std::span<const RunRow> rows, int64_t epoch_images);

std::string summary_csv(std::span<const Summary> summaries);

}  // namespace engine
