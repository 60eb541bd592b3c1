#include "engine/measures/bootstrap.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <thread>
#include <utility>

#include "engine/measures/agreement.h"
#include "engine/rng.h"

namespace engine {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

// The figures of a resample lie one after the other: the totals, then these of every class.
enum class OfClass : uint8_t { recall, precision, specificity, auc, average_precision, count };

constexpr size_t kTotals = kTotalNames.size(), kOfClass = static_cast<size_t>(OfClass::count);

size_t place(int c, OfClass figure) {
  return kTotals + size_t(c) * kOfClass + static_cast<size_t>(figure);
}

double ratio_or_none(double part, double whole) {
  return whole > 0 ? part / whole : kUndefined;
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

// How often each sample is in a resample; 16 bits keep many samples near to the processor.
using Counts = std::span<const uint16_t>;

// The samples in ascending order of a score, cut where positives lie: between two of these only the
// number of negatives matters, whatever their order and ties.
class Order {
 public:
  // Of `count` entries, which are sorted by score(entry): sample_of(entry) is its sample.
  Order(size_t count, auto score, auto positive, auto sample_of) {
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return score(a) < score(b); });
    samples_.reserve(count);
    for (size_t begin = 0, end; begin < count; begin = end) {
      for (end = begin + 1; end < count && score(order[end]) == score(order[begin]);) ++end;
      const auto ties = std::span(order).subspan(begin, end - begin);
      const auto rest = std::partition(ties.begin(), ties.end(), std::not_fn(positive));
      Cut cut{.begin = samples_.size()};
      for (const uint32_t entry : ties) samples_.push_back(sample_of(entry));
      cut.positives = cut.begin + static_cast<size_t>(rest - ties.begin());
      cut.end = samples_.size();
      if (cut.positives < cut.end) cuts_.push_back(cut);
    }
  }

  struct Areas {
    double roc = kUndefined, precision_recall = kUndefined;
  };

  // Of a resample of `all` entries with `all_positives`.
  Areas areas(Counts counts, int64_t all_positives, int64_t all) const {
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
    return {all_positives > 0 && all_negatives > 0 ? static_cast<double>(twice) / 2 / p / n
                                                   : kUndefined,
            ratio_or_none(rises, p)};
  }

 private:
  // Entries of one score: negatives from `begin`, positives from `positives`.
  struct Cut {
    size_t begin = 0, positives = 0, end = 0;
  };

  int64_t sum(Counts counts, size_t begin, size_t end) const {
    int64_t sum = 0;
    for (size_t i = begin; i < end; ++i) sum += counts[samples_[i]];
    return sum;
  }

  std::vector<uint32_t> samples_;
  std::vector<Cut> cuts_;
};

// The samples are sorted by the score of every class once; a resample is then a count per sample,
// and its areas are one sweep over that order.
class Resampler {
 public:
  Resampler(std::span<const float> logits, std::span<const int32_t> labels, int classes,
            std::span<const uint32_t> groups)
      : classes_(classes), groups_(groups), samples_(labels.size()) {
    units_ = groups.empty() ? labels.size() : *std::ranges::max_element(groups) + size_t{1};
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
    for (int c = 0; c < classes; ++c) {
      if (std::ranges::find(labels, c) == labels.end()) continue;  // never an area
      with_samples_.push_back(c);
      orders_.emplace_back(
          labels.size(), [&](uint32_t i) { return p[size_t(i) * classes + c]; },
          [&](uint32_t i) { return labels[i] == c; }, std::identity());
    }
    const auto sample_of = [&](uint32_t pair) { return pair / static_cast<uint32_t>(classes); };
    pairs_.emplace(
        p.size(), [&](uint32_t pair) { return p[pair]; },
        [&](uint32_t pair) { return labels[sample_of(pair)] == int32_t(pair) % classes; },
        sample_of);
  }

  size_t units() const { return units_; }
  size_t figures() const { return kTotals + size_t(classes_) * kOfClass; }

  // Writes all figures of one resample.
  void resample(const RandomKey& key, std::span<double> figures) const {
    std::vector<uint16_t> drawn(units_), of_samples;
    Rng rng(key);
    for (size_t i = 0; i < units_; ++i) ++drawn[rng.below(static_cast<uint32_t>(units_))];
    if (!groups_.empty()) {
      of_samples.resize(samples_.size());
      for (size_t i = 0; i < samples_.size(); ++i) of_samples[i] = drawn[groups_[i]];
    }
    const Counts counts = groups_.empty() ? drawn : of_samples;
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
    for (size_t i = 0; i < orders_.size(); ++i) {
      const int c = with_samples_[i];
      const Order::Areas a = orders_[i].areas(counts, support[c], all);
      figures[place(c, OfClass::auc)] = a.roc;
      figures[place(c, OfClass::average_precision)] = a.precision_recall;
      if (!std::isnan(a.roc)) areas += a.roc, ++with_area;
      if (!std::isnan(a.precision_recall)) precisions += a.precision_recall, ++with_precision;
    }
    of(figures, Total::auc_macro) = ratio_or_none(areas, with_area);
    of(figures, Total::average_precision_macro) = ratio_or_none(precisions, with_precision);
    of(figures, Total::auc_micro) = pairs_->areas(counts, all, all * classes_).roc;
  }

  static int rank_of(std::span<const float> row, int label) {
    int rank = 0;
    for (int c = 0; c < static_cast<int>(row.size()); ++c)
      rank += row[c] > row[label] || (row[c] == row[label] && c < label);
    return rank;
  }

  int classes_;
  std::span<const uint32_t> groups_;
  size_t units_ = 0;
  std::vector<SampleFigures> samples_;
  std::vector<int> with_samples_;  // classes
  std::vector<Order> orders_;      // of the samples, by the score of each of these classes
  std::optional<Order> pairs_;     // of all pairs of sample and class
};

// How many samples, and groups with one, a share is of.
struct ShareCount {
  int64_t found = 0, samples = 0;
  std::set<uint32_t> groups = {};

  void add(bool right, size_t sample, std::span<const uint32_t> of) {
    ++samples;
    found += right;
    if (!of.empty()) groups.insert(of[sample]);
  }

  FigureInterval interval(const FigureInterval& bootstrapped, bool grouped, double level) const {
    if (!grouped) return wilson_interval(found, samples, level);
    if (found != 0 && found != samples) return bootstrapped;
    const auto units = static_cast<int64_t>(groups.size());
    return wilson_interval(found == 0 ? 0 : units, units, level);
  }
};

struct ShareCounts {
  ShareCount recall, precision, specificity;
};

ShareCounts counts_of(int c, std::span<const int32_t> labels, std::span<const int32_t> predictions,
                      std::span<const uint32_t> groups) {
  ShareCounts n;
  for (size_t i = 0; i < labels.size(); ++i) {
    const bool is = labels[i] == c, called = predictions[i] == c;
    if (is) n.recall.add(called, i, groups);
    if (called) n.precision.add(is, i, groups);
    if (!is) n.specificity.add(!called, i, groups);
  }
  return n;
}

}  // namespace

ConfidenceIntervals bootstrap_intervals(std::span<const float> logits,
                                        std::span<const int32_t> labels, int classes,
                                        const BootstrapOptions& options,
                                        std::span<const uint32_t> groups) {
  require_finite(logits, classes);
  const Resampler resampler(logits, labels, classes, groups);
  const auto resamples = static_cast<size_t>(options.resamples);
  const size_t figures = resampler.figures();
  std::vector<double> values(resamples * figures, kUndefined);  // (resamples, figures)
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t r; (r = next++) < resamples;)
      resampler.resample({.seed = options.seed,
                          .position = static_cast<uint32_t>(r),
                          .purpose = purpose("bootstrap")},
                         std::span(values).subspan(r * figures, figures));
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < options.threads; ++i) helpers.emplace_back(work);
    work();
  }
  const auto interval = [&](size_t figure) {
    std::vector<double> of(resamples);
    for (size_t r = 0; r < resamples; ++r) of[r] = values[r * figures + figure];
    return percentile_interval(std::move(of), options.level);
  };
  ConfidenceIntervals intervals{.units = static_cast<int64_t>(resampler.units()),
                                .grouped = !groups.empty()};
  for (size_t t = 0; t < kTotals; ++t) intervals.totals[t] = interval(t);
  const std::vector<int32_t> predictions = predicted_classes(logits, classes);
  for (int c = 0; c < classes; ++c) {
    const ShareCounts n = counts_of(c, labels, predictions, groups);
    const auto of = [&](OfClass figure) { return interval(place(c, figure)); };
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
