// What an evaluation leaves behind: metrics with confidence intervals, printed as a table and
// written to files that tools/plots and spreadsheets read.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "engine/measures/bootstrap.h"
#include "engine/measures/metrics.h"
#include "tools/score/evaluation.h"

namespace engine {

struct ScoreOptions {
  std::string part = "val";    // the member of metrics.json
  std::string prefix;          // of the other files' names, for instance "test_"
  int resamples = 1000;        // of the bootstrap; 0: no intervals
  uint64_t seed = 0;           // of its draws
  bool probabilities = false;  // predictions.csv has a column for each class
};

struct Score {
  Metrics metrics;
  std::optional<ConfidenceIntervals> intervals;
  ScoreOptions options;
};

// Scores the samples that count.
Score score(const EvaluationResult& result, const Dataset& data, const ScoreOptions& options = {});

nlohmann::ordered_json to_json(const Score& score, std::span<const std::string> classes);
// Totals with intervals, then a line per class.
std::string table(const Score& score, std::span<const std::string> classes);

// Sets the member `part` of metrics.json in `folder`, which is made if it is not there; others
// stay.
void write_metrics(const std::filesystem::path& folder, const std::string& part,
                   const nlohmann::ordered_json& figures);

// Scores, and writes into `folder`, which is made if it is not there. In metrics.json the member
// `part` is set and others stay. Behind the prefix stand predictions.csv (path, label, prediction,
// p_prediction, p_label, loss), confusion_matrix.csv (a row per label, a column per prediction) and
// roc.csv (at most 200 points per class, and "(micro)": all pairs of sample and class). One rank
// calls it, once.
Score write_score(const std::filesystem::path& folder, const EvaluationResult& result,
                  const Dataset& data, const ScoreOptions& options = {});

}  // namespace engine
