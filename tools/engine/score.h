// What an evaluation leaves behind: metrics with confidence intervals, printed as a table and written
// to files that tools/plots and spreadsheets read.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engine/metrics.h"
#include "tools/engine/evaluation.h"

namespace engine {

struct ScoreOptions {
  std::string part = "val";   // the member of metrics.json
  std::string prefix;         // of the other files' names, for instance "test_"
  int resamples = 1000;       // of the bootstrap; 0: no intervals
  uint64_t seed = 0;          // of its draws
  bool probabilities = true;  // predictions.csv has a column per class
};

struct Score {
  Metrics metrics;
};

// Of the counted samples.
Score score(const EvaluationResult& result, const Dataset& data, const ScoreOptions& options = {});

nlohmann::ordered_json to_json(const Score& score, const Dataset& data);
// Totals with intervals, then a line per class.
std::string table(const Score& score, const Dataset& data);

// Scores and writes into `folder`: metrics.json (the member `part` is set, others stay),
// predictions.csv, confusion_matrix.csv and roc.csv, each behind the prefix. Called once, by one rank.
Score write_score(const std::filesystem::path& folder, const EvaluationResult& result,
                  const Dataset& data, const ScoreOptions& options = {});

}  // namespace engine
