#include "engine/measures/resampling.h"

#include <algorithm>
#include <numeric>

#include "engine/parallel.h"
#include "engine/rng.h"

namespace engine {

Resamples::Resamples(size_t samples, std::span<const uint32_t> groups, size_t figures,
                     const BootstrapOptions& options, const Measure& measure)
    : units_(groups.empty() ? samples : *std::ranges::max_element(groups) + size_t{1}),
      figures_(figures),
      level_(options.level),
      values_(static_cast<size_t>(options.resamples) * figures, kUndefined) {
  const auto draw = [&](size_t r) {
    std::vector<uint16_t> drawn(units_), of_samples;
    Rng rng({.seed = options.seed,
             .position = static_cast<uint32_t>(r),
             .purpose = purpose("bootstrap")});
    for (size_t i = 0; i < units_; ++i) ++drawn[rng.below(static_cast<uint32_t>(units_))];
    if (!groups.empty()) {
      of_samples.resize(samples);
      for (size_t i = 0; i < samples; ++i) of_samples[i] = drawn[groups[i]];
    }
    measure(groups.empty() ? drawn : of_samples,
            std::span(values_).subspan(r * figures_, figures_));
  };
  parallel_for(static_cast<size_t>(options.resamples), {.threads = options.threads}, draw);
}

FigureInterval Resamples::interval(size_t figure) const {
  if (units_ < 2) return std::nullopt;
  std::vector<double> of;
  for (size_t at = figure; at < values_.size(); at += figures_) of.push_back(values_[at]);
  return percentile_interval(std::move(of), level_);
}

ResampledRanking::ResampledRanking(std::span<const double> scores,
                                   std::span<const uint8_t> positive,
                                   std::span<const uint32_t> samples) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return scores[a] < scores[b]; });
  samples_.reserve(order.size());
  for (size_t begin = 0, end; begin < order.size(); begin = end) {
    for (end = begin + 1; end < order.size() && scores[order[end]] == scores[order[begin]];) ++end;
    const auto ties = std::span(order).subspan(begin, end - begin);
    const auto rest =
        std::partition(ties.begin(), ties.end(), [&](uint32_t entry) { return !positive[entry]; });
    Cut cut{.begin = samples_.size()};
    for (const uint32_t entry : ties) samples_.push_back(samples[entry]);
    cut.positives = cut.begin + static_cast<size_t>(rest - ties.begin());
    cut.end = samples_.size();
    if (cut.positives < cut.end) cuts_.push_back(cut);
  }
}

ResampledRanking::Areas ResampledRanking::areas(Counts counts, int64_t all_positives,
                                                int64_t all) const {
  const int64_t all_negatives = all - all_positives;
  int64_t twice = 0;  // pairs in order count two, ties one
  int64_t positives = 0, negatives = 0;
  double rises = 0;  // Σ positives of a score · precision there
  size_t at = 0;
  for (const Cut& cut : cuts_) {
    negatives += sum(counts, at, cut.begin);
    const int64_t tied = sum(counts, cut.begin, cut.positives),
                  found = sum(counts, cut.positives, cut.end);
    twice += found * (2 * negatives + tied);
    if (found > 0)
      rises += static_cast<double>(found * (all_positives - positives)) /
               static_cast<double>(all - positives - negatives);
    negatives += tied;
    positives += found;
    at = cut.end;
  }
  const auto p = static_cast<double>(all_positives), n = static_cast<double>(all_negatives);
  Areas areas;
  if (all_positives > 0) areas.precision_recall = rises / p;
  if (all_positives > 0 && all_negatives > 0) areas.roc = static_cast<double>(twice) / 2 / p / n;
  return areas;
}

int64_t ResampledRanking::sum(Counts counts, size_t begin, size_t end) const {
  int64_t sum = 0;
  for (size_t i = begin; i < end; ++i) sum += counts[samples_[i]];
  return sum;
}

void ShareCount::add(bool right, size_t sample, std::span<const uint32_t> of) {
  ++samples;
  found += right;
  if (!of.empty()) groups.insert(of[sample]);
}

FigureInterval ShareCount::interval(const FigureInterval& bootstrapped, bool grouped,
                                    double level) const {
  if (!grouped) return wilson_interval(found, samples, level);
  const auto units = static_cast<int64_t>(groups.size());
  return interval_of_share(bootstrapped, double(found) / double(samples), units, level);
}

FigureInterval interval_of_share(const FigureInterval& bootstrapped, double share, int64_t units,
                                 double level) {
  if (share == 0) return wilson_interval(0, units, level);
  if (share == 1) return wilson_interval(units, units, level);
  return bootstrapped;
}

void ShareCounts::add(bool is, bool called, size_t sample, std::span<const uint32_t> groups) {
  if (is) recall.add(called, sample, groups);
  if (called) precision.add(is, sample, groups);
  if (!is) specificity.add(!called, sample, groups);
}

}  // namespace engine
