// What an evaluation leaves behind: metrics with confidence intervals, printed as a table and
// written to files that tools/plots and spreadsheets read.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/bootstrap.h"
#include "engine/measures/metrics.h"
#include "tools/score/columns.h"
#include "tools/score/decided.h"
#include "tools/score/evaluation.h"
#include "tools/score/score_options.h"

namespace engine {

// The samples with one value of a column.
struct Subgroup {
  std::string value;
  int64_t samples = 0, groups = 0;  // groups: 0 where samples have none
  double top1 = 0, balanced_accuracy = 0;
  std::optional<double> auc_macro;
  std::optional<ConfidenceIntervals> intervals;
};

struct SubgroupTable {
  std::string column;
  std::vector<Subgroup> rows;  // those with samples
};

struct Score : Decided {
  Metrics metrics;
  std::optional<ConfidenceIntervals> intervals;
  ScoreOptions options;
  // With thresholds, for each class: what they make of the samples; nothing where there is none.
  std::vector<std::optional<Called>> called = {};
  std::vector<SubgroupTable> by = {};
};

// The number of each counted sample's group, in the order of their first samples; a sample without
// a group is one of its own. Empty where none has one.
std::vector<uint32_t> group_numbers(const EvaluationResult& result, const Dataset& data);

// The counted samples with one value of a column.
struct ValueSamples {
  std::string value;
  std::vector<size_t> samples;   // positions among the counted ones
  std::vector<uint32_t> groups;  // group_numbers() of these alone; empty where none has a group
  int64_t group_count = 0;
};

// Those of each value that has some, in the order of the column. `groups` are group_numbers().
std::vector<ValueSamples> samples_by_value(const Column& column, const EvaluationResult& result,
                                           std::span<const uint32_t> groups);

// Scores the samples that count. Intervals are drawn by groups where samples have some.
Score score(const EvaluationResult& result, const Dataset& data, const ScoreOptions& options = {});

// A figure without samples is null.
nlohmann::ordered_json to_json(const Score& score, std::span<const std::string> classes);
// Totals with intervals, then a line per class, in 80 columns; digits follow the number of images.
// A figure without samples is "-".
std::string table(const Score& score, std::span<const std::string> classes);

// The result with the logits that are scored: with `calibrated` divided by the temperature.
EvaluationResult as_scored(const EvaluationResult& result, const ScoreOptions& options);

// Sets the member `part` of metrics.json in `folder`, which is made if it is not there; others
// stay.
void write_metrics(const std::filesystem::path& folder, const std::string& part,
                   const nlohmann::ordered_json& figures);

// Scores, and writes into `folder`, which is made if it is not there. In metrics.json the member
// `part` is set and others stay. Behind the prefix stand predictions.csv (path, label, prediction,
// p_prediction, p_label, loss, group where samples have groups, and of at most 100 classes the
// probability of each), confusion_matrix.csv (a row per label, a column per prediction), roc.csv
// (at most 200 points per class, and "(micro)": all pairs of sample and class) and pr.csv
// (likewise: precision and recall). One rank calls it, once.
Score write_score(const std::filesystem::path& folder, const EvaluationResult& result,
                  const Dataset& data, const ScoreOptions& options = {});

}  // namespace engine
