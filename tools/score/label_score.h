// What an evaluation of images with several labels leaves behind: the figures of
// engine/measures/labels.h, printed as a table and written to files.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/measures/label_bootstrap.h"
#include "engine/measures/labels.h"
#include "engine/measures/metrics.h"
#include "tools/score/decided.h"
#include "tools/score/evaluation.h"
#include "tools/score/score.h"

namespace engine {

// The samples with one value of a column, at the thresholds of all.
struct LabelSubgroup {
  std::string value;
  int64_t groups = 0;  // 0 where samples have none
  MultilabelMetrics metrics;
  std::optional<MultilabelIntervals> intervals;
};

struct LabelSubgroupTable {
  std::string column;
  std::vector<LabelSubgroup> rows;  // those with samples
};

// An answer, of which Decided tells, is whether a known label is present in an image.
struct LabelScore : Decided {
  MultilabelMetrics metrics;
  std::optional<MultilabelIntervals> intervals;
  ScoreOptions options;     // with the thresholds that were chosen here, if none were given
  Calibration calibration;  // of the probabilities that are scored
  // Of each label the share of its decisions that are given; empty where all are.
  std::vector<RejectPoint> answered_labels = {};
  std::vector<LabelSubgroupTable> by = {};  // of the options' columns
};

// Scores the samples that count, at the thresholds of the options' decisions; without them they are
// chosen here, by the options' rule. A label without one is called present from 0.5 on. Intervals
// are drawn by groups where samples have some.
LabelScore score_labels(const EvaluationResult& result, const Dataset& data,
                        const ScoreOptions& options = {});

// Has the member task, "multilabel". A figure that is not defined is null: of no known entry, or
// an area where all or none have the label.
nlohmann::ordered_json to_json(const LabelScore& score, std::span<const std::string> labels);
// Totals, a line per label, then for each column of the options its values, and each label of each
// value. A figure that is not defined is "-".
std::string table(const LabelScore& score, std::span<const std::string> labels);

// Scores and writes as write_score(). predictions.csv has path, group where samples have groups,
// then y:LABEL (0, 1 or nothing) for each label and p:LABEL for each, with all digits that a double
// has, so that the logits come back from them. roc.csv and pr.csv have at
// most 200 points per label, and "(micro)": all known entries.
LabelScore write_label_score(const std::filesystem::path& folder, const EvaluationResult& result,
                             const Dataset& data, const ScoreOptions& options = {});

// What decides about epochs: loss, macro AUC and average precision, and as top1 the share of images
// with every known label on the right side of 0.5; there is no top5.
Metrics epoch_metrics_of_labels(const EvaluationResult& result, const Dataset& data);

// A label's or an average's figures under one set of names.
LabelAverages figures_of(const LabelMetrics& label);

}  // namespace engine
