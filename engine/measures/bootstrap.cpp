#include "engine/measures/bootstrap.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "engine/measures/metrics.h"
#include "engine/rng.h"

namespace engine {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

struct Measures {
  double top1 = 0, f1_macro = 0, auc_macro = kNone;
};

// The samples of every class are sorted by score once; a resample is then a count per sample, and
// its area is one sweep over that order.
class Resampler {
 public:
  Resampler(std::span<const float> logits, std::span<const int32_t> labels, int classes)
      : labels_(labels), classes_(classes), predictions_(predicted_classes(logits, classes)) {
    const std::vector<double> p = softmax_rows(logits, classes);
    std::vector<uint32_t> order(labels.size());
    for (int c = 0; c < classes; ++c) {
      if (std::find(labels.begin(), labels.end(), c) == labels.end()) continue;  // never an area
      const auto score = [&](uint32_t i) { return p[size_t(i) * classes + c]; };
      std::iota(order.begin(), order.end(), 0u);
      std::sort(order.begin(), order.end(),
                [&](uint32_t a, uint32_t b) { return score(a) < score(b); });
      for (size_t i = 0; i < order.size(); ++i) {
        const bool ends = i + 1 == order.size() || score(order[i]) != score(order[i + 1]);
        const bool positive = labels[order[i]] == c;
        entries_.push_back(order[i] << 2 | uint32_t{positive} << 1 | uint32_t{ends});
      }
    }
  }

  Measures resample(const RandomKey& key) const {
    std::vector<uint32_t> counts(labels_.size());
    Rng rng(key);
    for (size_t i = 0; i < counts.size(); ++i)
      ++counts[rng.below(static_cast<uint32_t>(counts.size()))];
    Measures m;
    count_classes(counts, m);
    m.auc_macro = mean_area(counts);
    return m;
  }

 private:
  void count_classes(std::span<const uint32_t> counts, Measures& m) const {
    std::vector<int64_t> found(classes_), sizes(classes_);  // sizes: support + predicted
    for (size_t i = 0; i < counts.size(); ++i) {
      sizes[labels_[i]] += counts[i];
      sizes[predictions_[i]] += counts[i];
      if (labels_[i] == predictions_[i]) found[labels_[i]] += counts[i];
    }
    int occurring = 0;
    for (int c = 0; c < classes_; ++c) {
      m.top1 += static_cast<double>(found[c]) / static_cast<double>(counts.size());
      if (sizes[c] == 0) continue;
      ++occurring;
      m.f1_macro += 2 * static_cast<double>(found[c]) / static_cast<double>(sizes[c]);
    }
    m.f1_macro /= occurring;
  }

  double mean_area(std::span<const uint32_t> counts) const {
    double sum = 0;
    int areas = 0;
    for (size_t at = 0; at < entries_.size(); at += counts.size()) {
      int64_t twice = 0;  // pairs in order count two, ties one
      int64_t positives = 0, negatives = 0, equal_positives = 0, equal_negatives = 0;
      for (uint32_t entry : std::span(entries_).subspan(at, counts.size())) {
        const int64_t count = counts[entry >> 2], if_positive = -int64_t{entry >> 1 & 1};
        equal_positives += count & if_positive;
        equal_negatives += count & ~if_positive;
        if (!(entry & 1)) continue;
        twice += equal_positives * (2 * negatives + equal_negatives);
        positives += std::exchange(equal_positives, 0);
        negatives += std::exchange(equal_negatives, 0);
      }
      if (positives == 0 || negatives == 0) continue;
      sum += static_cast<double>(twice) / 2 / static_cast<double>(positives) /
             static_cast<double>(negatives);
      ++areas;
    }
    return areas > 0 ? sum / areas : kNone;
  }

  std::span<const int32_t> labels_;
  int classes_;
  std::vector<int32_t> predictions_;
  // (classes with samples, samples): the sample, whether it is positive, whether it is the last of
  // equal scores.
  std::vector<uint32_t> entries_;
};

ConfidenceInterval percentiles(std::vector<double> values, double level) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const double above = values[std::min(below + 1, values.size() - 1)];
    return values[below] + (place - static_cast<double>(below)) * (above - values[below]);
  };
  return {at((1 - level) / 2), at((1 + level) / 2)};
}

}  // namespace

ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options) {
  require_finite(logits, classes);
  const Resampler resampler(logits, labels, classes);
  std::vector<Measures> measures(options.resamples);
  std::atomic<int> next = 0;
  const auto work = [&] {
    for (int r; (r = next++) < options.resamples;)
      measures[r] = resampler.resample({.seed = options.seed,
                                        .position = static_cast<uint32_t>(r),
                                        .purpose = purpose("bootstrap")});
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < options.threads; ++i) helpers.emplace_back(work);
    work();
  }
  std::vector<double> top1, f1, auc;
  for (const Measures& m : measures) {
    top1.push_back(m.top1);
    f1.push_back(m.f1_macro);
    if (!std::isnan(m.auc_macro)) auc.push_back(m.auc_macro);
  }
  ConfidenceIntervals intervals{percentiles(std::move(top1), options.level),
                                percentiles(std::move(f1), options.level), std::nullopt};
  if (!auc.empty()) intervals.auc_macro = percentiles(std::move(auc), options.level);
  return intervals;
}

}  // namespace engine
