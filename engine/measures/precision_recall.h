// Precision over recall of one class against the rest, and the area that is called average
// precision.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "engine/measures/ranking.h"

namespace engine {

// scikit-learn's average_precision_score: Σ over the distinct scores, from the largest on, of the
// rise in recall times the precision there; nothing is interpolated. Nothing where none is
// positive.
std::optional<double> average_precision(std::span<const RankedStep> steps);

struct PrecisionRecall {
  double threshold = 0;  // scores at least as large count as positive; the first is infinity
  double precision = 1, recall = 0;
};

// scikit-learn's precision_recall_curve, from its end (no sample is called positive, precision 1)
// to its beginning (all are): a point per distinct score. More than `most` points are thinned
// evenly along the recall; the ends stay. It is empty where none is positive.
std::vector<PrecisionRecall> precision_recall_curve(std::span<const RankedStep> steps, size_t most);

}  // namespace engine
