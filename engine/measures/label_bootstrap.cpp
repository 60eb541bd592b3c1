#include "engine/measures/label_bootstrap.h"

#include <array>
#include <cmath>
#include <optional>
#include <utility>

namespace engine {
namespace {

// The figures of a resample lie one after the other: the totals, then those of the macro averages,
// of the micro averages, and of every label.
enum OfAll : size_t { kLoss, kBrier, kSubset, kHamming, kOfAll };
enum OfLabel : size_t {
  kAuc,
  kPrecisionRecall,
  kSensitivity,
  kSpecificity,
  kPrecision,
  kF1,
  kEach
};
constexpr size_t kMacro = kOfAll, kMicro = kMacro + kEach, kLabels = kMicro + kEach;

double share_or_none(int64_t part, int64_t whole) {
  return ratio_or_none(static_cast<double>(part), static_cast<double>(whole));
}

// One label's entries that are known, or those of all labels.
struct Entries {
  std::vector<double> scores;
  std::vector<uint8_t> positive, called;
  std::vector<uint32_t> samples;

  void add(double score, bool is, bool as, size_t sample) {
    scores.push_back(score);
    positive.push_back(is);
    called.push_back(as);
    samples.push_back(static_cast<uint32_t>(sample));
  }
};

class RankedEntries {
 public:
  explicit RankedEntries(Entries entries)
      : entries_(std::move(entries)),
        ranking_(entries_.scores, entries_.positive, entries_.samples) {}

  const Entries& entries() const { return entries_; }

  void measure(Counts counts, std::span<double> figures) const {
    std::array<std::array<int64_t, 2>, 2> n{};  // [positive][called]
    for (size_t i = 0; i < entries_.samples.size(); ++i)
      n[entries_.positive[i]][entries_.called[i]] += counts[entries_.samples[i]];
    const int64_t positives = n[1][0] + n[1][1], negatives = n[0][0] + n[0][1];
    const ResampledRanking::Areas areas = ranking_.areas(counts, positives, positives + negatives);
    figures[kAuc] = areas.roc;
    figures[kPrecisionRecall] = areas.precision_recall;
    figures[kSensitivity] = share_or_none(n[1][1], positives);
    figures[kSpecificity] = share_or_none(n[0][0], negatives);
    figures[kPrecision] = share_or_none(n[1][1], n[1][1] + n[0][1]);
    figures[kF1] = share_or_none(2 * n[1][1], 2 * n[1][1] + n[0][1] + n[1][0]);
  }

 private:
  Entries entries_;
  ResampledRanking ranking_;
};

// What an image adds to the sums of every resample that it is in.
struct ImageFigures {
  double loss = 0, squares = 0;  // of all its entries
  int64_t known = 0, wrong = 0;
};

class LabelFigures {
 public:
  LabelFigures(std::span<const float> logits, std::span<const Presence> presence, size_t labels,
               std::span<const double> thresholds)
      : images_(presence.size() / labels) {
    const std::vector<double> p = sigmoids(logits);
    std::vector<Entries> of(labels);
    Entries all;
    for (size_t i = 0; i < images_.size(); ++i)
      for (size_t c = 0; c < labels; ++c) {
        const size_t at = i * labels + c;
        if (presence[at] == Presence::missing) continue;
        const bool is = presence[at] == Presence::present;
        const bool as = p[at] >= threshold_of(thresholds, at);
        of[c].add(p[at], is, as, i);
        all.add(p[at], is, as, i);
        ++images_[i].known;
        images_[i].wrong += is != as;
        images_[i].squares += (p[at] - is) * (p[at] - is);
        images_[i].loss += binary_cross_entropy(logits.subspan(at, 1), presence.subspan(at, 1));
      }
    for (Entries& entries : of) labels_.emplace_back(std::move(entries));
    all_.emplace(std::move(all));
  }

  size_t count() const { return kLabels + labels_.size() * kEach; }
  const Entries& entries(size_t label) const { return labels_[label].entries(); }

  // Writes all figures of one resample.
  void measure(Counts counts, std::span<double> figures) const {
    double loss = 0, squares = 0;
    int64_t known = 0, wrong = 0, images = 0, right = 0;
    for (size_t i = 0; i < images_.size(); ++i) {
      const int64_t times = counts[i];
      loss += static_cast<double>(times) * images_[i].loss;
      squares += static_cast<double>(times) * images_[i].squares;
      known += times * images_[i].known;
      wrong += times * images_[i].wrong;
      images += images_[i].known > 0 ? times : 0;
      right += images_[i].known > 0 && images_[i].wrong == 0 ? times : 0;
    }
    figures[kLoss] = ratio_or_none(loss, static_cast<double>(known));
    figures[kBrier] = ratio_or_none(squares, static_cast<double>(known));
    figures[kSubset] = share_or_none(right, images);
    figures[kHamming] = share_or_none(wrong, known);
    all_->measure(counts, figures.subspan(kMicro, kEach));
    for (size_t c = 0; c < labels_.size(); ++c)
      labels_[c].measure(counts, figures.subspan(kLabels + c * kEach, kEach));
    for (size_t k = 0; k < kEach; ++k) {
      double sum = 0, with = 0;
      for (size_t c = 0; c < labels_.size(); ++c)
        if (const double figure = figures[kLabels + c * kEach + k]; !std::isnan(figure))
          sum += figure, ++with;
      figures[kMacro + k] = ratio_or_none(sum, with);
    }
  }

 private:
  std::vector<ImageFigures> images_;
  std::vector<RankedEntries> labels_;
  std::optional<RankedEntries> all_;  // of all labels together
};

LabelIntervals intervals_at(const Resamples& resamples, size_t at) {
  return {resamples.interval(at + kAuc),         resamples.interval(at + kPrecisionRecall),
          resamples.interval(at + kSensitivity), resamples.interval(at + kSpecificity),
          resamples.interval(at + kPrecision),   resamples.interval(at + kF1)};
}

}  // namespace

MultilabelIntervals bootstrap_label_intervals(std::span<const float> logits,
                                              std::span<const Presence> presence, int labels,
                                              std::span<const double> thresholds,
                                              const BootstrapOptions& options,
                                              std::span<const uint32_t> groups) {
  const auto count = static_cast<size_t>(labels);
  const LabelFigures figures(logits, presence, count, thresholds);
  const Resamples resamples(
      presence.size() / count, groups, figures.count(), options,
      [&](Counts counts, std::span<double> of) { figures.measure(counts, of); });
  MultilabelIntervals intervals{.units = resamples.units(),
                                .grouped = !groups.empty(),
                                .loss = resamples.interval(kLoss),
                                .brier = resamples.interval(kBrier),
                                .subset_accuracy = resamples.interval(kSubset),
                                .hamming_loss = resamples.interval(kHamming),
                                .macro = intervals_at(resamples, kMacro),
                                .micro = intervals_at(resamples, kMicro)};
  std::vector<double> whole(figures.count());
  figures.measure(std::vector<uint16_t>(presence.size() / count, 1), whole);
  intervals.subset_accuracy =
      interval_of_share(intervals.subset_accuracy, whole[kSubset], intervals.units, options.level);
  for (size_t c = 0; c < count; ++c) {
    LabelIntervals& of =
        intervals.labels.emplace_back(intervals_at(resamples, kLabels + c * kEach));
    const Entries& entries = figures.entries(c);
    ShareCounts counted;
    for (size_t i = 0; i < entries.samples.size(); ++i)
      counted.add(entries.positive[i], entries.called[i], entries.samples[i], groups);
    const auto share = [&](FigureInterval& of_share, const ShareCount& count_of_share) {
      of_share = count_of_share.interval(of_share, intervals.grouped, options.level);
    };
    share(of.sensitivity, counted.recall);
    share(of.specificity, counted.specificity);
    share(of.precision, counted.precision);
  }
  return intervals;
}

}  // namespace engine
