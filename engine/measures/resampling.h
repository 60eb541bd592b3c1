// What intervals by the bootstrap are made of: resamples drawn by samples or by groups of them, and
// areas under curves of a resample.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "engine/measures/intervals.h"

namespace engine {

struct BootstrapOptions {
  int resamples = 1000;
  double level = kLevel;
  uint64_t seed = 0;
  int threads = 1;  // the result does not depend on it
};

using FigureInterval = std::optional<ConfidenceInterval>;  // nothing where no resample has a value

// A figure that a resample lacks, as the recall of a class that was not drawn.
inline constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

inline double ratio_or_none(double part, double whole) {
  return whole > 0 ? part / whole : kUndefined;
}

// How often each sample is in a resample; 16 bits keep many samples near to the processor.
using Counts = std::span<const uint16_t>;

// The figures of all resamples. Draw j of resample r is below(units) of the stream {seed, epoch 0,
// position r, "bootstrap"}; units are the groups, numbered from 0 without gaps in the order of
// their first samples, or the samples where `groups` is empty.
class Resamples {
 public:
  // Writes the figures of one resample; several threads call it.
  using Measure = std::function<void(Counts counts, std::span<double> figures)>;

  Resamples(size_t samples, std::span<const uint32_t> groups, size_t figures,
            const BootstrapOptions& options, const Measure& measure);

  int64_t units() const { return static_cast<int64_t>(units_); }
  // Percentiles, without the resamples that lack the figure. Nothing of fewer than two units: one
  // does not tell how others differ.
  FigureInterval interval(size_t figure) const;

 private:
  size_t units_, figures_;
  double level_;
  std::vector<double> values_;  // (resamples, figures)
};

// Entries, each of a sample, in ascending order of a score, cut where positives lie: between two of
// these only the number of negatives matters, whatever their order and ties.
class ResampledRanking {
 public:
  // All three have one for each entry.
  ResampledRanking(std::span<const double> scores, std::span<const uint8_t> positive,
                   std::span<const uint32_t> samples);

  struct Areas {
    double roc = kUndefined, precision_recall = kUndefined;
  };
  // Of a resample in which there are `all` entries with `all_positives`.
  Areas areas(Counts counts, int64_t all_positives, int64_t all) const;

 private:
  // Entries of one score: negatives from `begin`, positives from `positives`.
  struct Cut {
    size_t begin = 0, positives = 0, end = 0;
  };

  int64_t sum(Counts counts, size_t begin, size_t end) const;

  std::vector<uint32_t> samples_;
  std::vector<Cut> cuts_;
};

// Of a share of 0 or 1 no resample differs: Wilson's interval of the number of units, as if each
// were one sample, is taken. Of other shares the bootstrap's.
FigureInterval interval_of_share(const FigureInterval& bootstrapped, double share, int64_t units,
                                 double level);

// How many samples, and groups with one, a share is of.
struct ShareCount {
  int64_t found = 0, samples = 0;
  std::set<uint32_t> groups = {};

  void add(bool right, size_t sample, std::span<const uint32_t> of);
  // Without groups Wilson's, which holds for independent samples; with groups as
  // interval_of_share() has it.
  FigureInterval interval(const FigureInterval& bootstrapped, bool grouped, double level) const;
};

// The shares of a class, or of a label, that are counted alike.
struct ShareCounts {
  ShareCount recall, precision, specificity;

  void add(bool is, bool called, size_t sample, std::span<const uint32_t> groups);
};

}  // namespace engine
