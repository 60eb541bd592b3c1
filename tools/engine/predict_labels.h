// What engine predict says of an image where the weights tell of labels, several of which it may
// have: the labels whose probability, a sigmoid, reaches their threshold, and all probabilities.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/score/metadata.h"

namespace engine {

enum class PredictFormat { text, csv, json };

// What the outputs of a head are called: `classes`, or 0, 1, … where a file has no names.
std::vector<std::string> output_names(const std::vector<std::string>& classes, int count);

// "path,labels,p:LABEL,…" with a column for each label.
std::string label_csv_head(const std::vector<std::string>& labels);

// One line. Text: "FILE: ring (98.1%), star (60.3%)". CSV: path, the labels with | between them,
// p of every label. JSON: path, labels with probability and threshold, p of every label, logits.
// Without thresholds a label is present from 0.5 on.
std::string label_line(const std::string& path, std::span<const float> logits,
                       const std::vector<std::string>& labels,
                       const std::optional<Thresholds>& thresholds, PredictFormat format);

}  // namespace engine
