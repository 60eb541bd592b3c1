#include "engine/measures/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/measures/agreement.h"

namespace engine {
namespace {

// The figures of a resample lie one after the other: the totals, then these of every class.
enum class OfClass : uint8_t { recall, precision, specificity, auc, average_precision, count };

constexpr size_t kTotals = kTotalNames.size(), kOfClass = static_cast<size_t>(OfClass::count);

size_t place(int c, OfClass figure) {
  return kTotals + size_t(c) * kOfClass + static_cast<size_t>(figure);
}

double or_none(const std::optional<double>& value) {
  return value.value_or(kUndefined);
}

// What a sample adds to the sums of every resample that it is in.
struct SampleFigures {
  int32_t label = 0, prediction = 0;
  int bin = 0;  // of its confidence
  bool in_top5 = false;
  double loss = 0, brier = 0, confidence = 0;
};

// The samples are sorted by the score of every class once; a resample is then a count per sample,
// and its areas are one sweep over that order.
class ClassFigures {
 public:
  ClassFigures(std::span<const float> logits, std::span<const int32_t> labels, int classes)
      : classes_(classes), samples_(labels.size()) {
    const std::vector<double> p = softmax_rows(logits, classes);
    const std::vector<int32_t> predictions = predicted_classes(logits, classes);
    for (size_t i = 0; i < labels.size(); ++i) {
      const auto row = logits.subspan(i * classes, classes);
      const auto shares = std::span(p).subspan(i * classes, classes);
      const double confidence = shares[predictions[i]];
      samples_[i] = {.label = labels[i],
                     .prediction = predictions[i],
                     .bin = calibration_bin(confidence),
                     .in_top5 = rank_of(row, labels[i]) < 5,
                     .loss = cross_entropy(row, labels[i]),
                     .brier = brier_score(shares, labels[i]),
                     .confidence = confidence};
    }
    rank_samples(p, labels);
  }

  size_t count() const { return kTotals + size_t(classes_) * kOfClass; }

  // Writes all figures of one resample.
  void measure(Counts counts, std::span<double> figures) const {
    const std::vector<int64_t> support = count(counts, figures);
    rank(counts, support, figures);
  }

 private:
  static double& of(std::span<double> figures, Total total) {
    return figures[static_cast<size_t>(total)];
  }

  // All but the areas. Returns how often each class is a label.
  std::vector<int64_t> count(Counts counts, std::span<double> figures) const {
    std::vector<int64_t> found(classes_), support(classes_), predicted(classes_);
    std::array<double, kCalibrationBins> gaps{};  // right answers less the sum of confidences
    Disagreement apart{.labels = support, .predictions = predicted};
    double loss = 0, brier = 0;
    int64_t all = 0, top5 = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      const int64_t times = counts[i];
      const SampleFigures& s = samples_[i];
      const int64_t distance = std::abs(s.label - s.prediction);
      all += times;
      support[s.label] += times;
      predicted[s.prediction] += times;
      found[s.label] += distance == 0 ? times : 0;
      top5 += s.in_top5 ? times : 0;
      apart.plain += distance == 0 ? 0 : times;
      apart.linear += times * distance;
      apart.quadratic += times * distance * distance;
      const auto weight = static_cast<double>(times);
      loss += weight * s.loss;
      brier += weight * s.brier;
      gaps[s.bin] += weight * ((distance == 0 ? 1 : 0) - s.confidence);
    }
    const auto n = static_cast<double>(all);
    of(figures, Total::loss) = loss / n;
    of(figures, Total::brier) = brier / n;
    of(figures, Total::top1) = static_cast<double>(all - apart.plain) / n;
    of(figures, Total::top5) = static_cast<double>(top5) / n;
    double gap = 0;
    for (const double g : gaps) gap += std::abs(g);
    of(figures, Total::calibration_error) = gap / n;
    const Kappas agreement = kappas(apart);
    of(figures, Total::cohen_kappa) = or_none(agreement.plain);
    of(figures, Total::kappa_linear) = or_none(agreement.linear);
    of(figures, Total::kappa_quadratic) = or_none(agreement.quadratic);
    double recalls = 0, f1s = 0, weighted = 0;
    int present = 0, occurring = 0;
    for (int c = 0; c < classes_; ++c) {
      const auto right = static_cast<double>(found[c]), labelled = static_cast<double>(support[c]),
                 called = static_cast<double>(predicted[c]);
      figures[place(c, OfClass::recall)] = ratio_or_none(right, labelled);
      figures[place(c, OfClass::precision)] = ratio_or_none(right, called);
      figures[place(c, OfClass::specificity)] =
          ratio_or_none(n - labelled - (called - right), n - labelled);
      if (support[c] > 0) recalls += right / labelled, ++present;
      if (support[c] + predicted[c] == 0) continue;
      ++occurring;
      f1s += 2 * right / (labelled + called);
      weighted += labelled * 2 * right / (labelled + called);
    }
    of(figures, Total::balanced_accuracy) = recalls / present;
    of(figures, Total::f1_macro) = f1s / occurring;
    of(figures, Total::f1_weighted) = weighted / n;
    return support;
  }

  void rank(Counts counts, std::span<const int64_t> support, std::span<double> figures) const {
    const int64_t all = std::accumulate(support.begin(), support.end(), int64_t{0});
    double areas = 0, precisions = 0;
    int with_area = 0, with_precision = 0;
    for (size_t i = 0; i < rankings_.size(); ++i) {
      const int c = with_samples_[i];
      const ResampledRanking::Areas a = rankings_[i].areas(counts, support[c], all);
      figures[place(c, OfClass::auc)] = a.roc;
      figures[place(c, OfClass::average_precision)] = a.precision_recall;
      if (!std::isnan(a.roc)) areas += a.roc, ++with_area;
      if (!std::isnan(a.precision_recall)) precisions += a.precision_recall, ++with_precision;
    }
    of(figures, Total::auc_macro) = ratio_or_none(areas, with_area);
    of(figures, Total::average_precision_macro) = ratio_or_none(precisions, with_precision);
    of(figures, Total::auc_micro) = pairs_->areas(counts, all, all * classes_).roc;
  }

  void rank_samples(std::span<const double> p, std::span<const int32_t> labels) {
    const auto classes = static_cast<size_t>(classes_);
    std::vector<uint32_t> each(labels.size());
    std::iota(each.begin(), each.end(), 0u);
    std::vector<double> scores(labels.size());
    std::vector<uint8_t> positive(labels.size());
    std::vector<uint8_t> pair_positive(p.size());
    std::vector<uint32_t> pair_sample(p.size());
    for (size_t c = 0; c < classes; ++c) {
      for (size_t i = 0; i < labels.size(); ++i) {
        scores[i] = p[i * classes + c];
        positive[i] = labels[i] == static_cast<int32_t>(c);
        pair_positive[i * classes + c] = positive[i];
        pair_sample[i * classes + c] = static_cast<uint32_t>(i);
      }
      if (std::ranges::find(positive, 1) == positive.end()) continue;  // never an area
      with_samples_.push_back(static_cast<int>(c));
      rankings_.emplace_back(scores, positive, each);
    }
    pairs_.emplace(p, pair_positive, pair_sample);
  }

  static int rank_of(std::span<const float> row, int label) {
    int rank = 0;
    for (int c = 0; c < static_cast<int>(row.size()); ++c)
      rank += row[c] > row[label] || (row[c] == row[label] && c < label);
    return rank;
  }

  int classes_;
  std::vector<SampleFigures> samples_;
  std::vector<int> with_samples_;           // classes
  std::vector<ResampledRanking> rankings_;  // of the samples, by the score of each of these classes
  std::optional<ResampledRanking> pairs_;   // of all pairs of sample and class
};

ShareCounts counts_of(int c, std::span<const int32_t> labels, std::span<const int32_t> predictions,
                      std::span<const uint32_t> groups) {
  ShareCounts n;
  for (size_t i = 0; i < labels.size(); ++i) n.add(labels[i] == c, predictions[i] == c, i, groups);
  return n;
}

}  // namespace

ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options,
                                        std::span<const uint32_t> groups) {
  require_finite(logits, classes);
  const ClassFigures figures(logits, labels, classes);
  const Resamples resamples(
      labels.size(), groups, figures.count(), options,
      [&](Counts counts, std::span<double> of) { figures.measure(counts, of); });
  ConfidenceIntervals intervals{.units = resamples.units(), .grouped = !groups.empty()};
  for (size_t t = 0; t < kTotals; ++t) intervals.totals[t] = resamples.interval(t);
  std::vector<double> whole(figures.count());
  figures.measure(std::vector<uint16_t>(labels.size(), 1), whole);
  for (const Total share : {Total::top1, Total::top5}) {
    if (share == Total::top5 && classes <= 5) continue;  // always 1
    const auto at = static_cast<size_t>(share);
    intervals.totals[at] =
        interval_of_share(intervals.totals[at], whole[at], resamples.units(), options.level);
  }
  const std::vector<int32_t> predictions = predicted_classes(logits, classes);
  for (int c = 0; c < classes; ++c) {
    const ShareCounts n = counts_of(c, labels, predictions, groups);
    const auto of = [&](OfClass figure) { return resamples.interval(place(c, figure)); };
    const auto share = [&](const ShareCount& counted, OfClass figure) {
      return counted.interval(of(figure), intervals.grouped, options.level);
    };
    intervals.classes.push_back({.recall = share(n.recall, OfClass::recall),
                                 .precision = share(n.precision, OfClass::precision),
                                 .specificity = share(n.specificity, OfClass::specificity),
                                 .auc = of(OfClass::auc),
                                 .average_precision = of(OfClass::average_precision)});
  }
  return intervals;
}

}  // namespace engine
