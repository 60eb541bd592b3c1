// A score of several labels as people read it.
#include <fmt/format.h>

#include <algorithm>

#include "tools/score/label_score.h"
#include "tools/score/text_table.h"

namespace engine {
namespace {

constexpr size_t kLinesOfLabels = 60;  // of a column; of more, metrics.json tells

std::string number_or_dash(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

std::string shown(const std::string& value) {
  return value.empty() ? "(empty)" : value;
}

// The values of a column, then each label of each.
std::string subgroups(const LabelSubgroupTable& of, std::span<const std::string> labels) {
  Table totals({of.column, "images", "groups", "all right", "macro AUC", "macro AP"});
  const MultilabelIntervals none;
  for (const LabelSubgroup& s : of.rows) {
    const MultilabelMetrics& m = s.metrics;
    const MultilabelIntervals& i = s.intervals ? *s.intervals : none;
    totals.add({shown(s.value), std::to_string(m.samples),
                s.groups > 0 ? std::to_string(s.groups) : "-",
                with_bounds(m.subset_accuracy, i.subset_accuracy, m.samples),
                with_bounds(m.macro.auc, i.macro.auc, m.samples),
                with_bounds(m.macro.average_precision, i.macro.average_precision, m.samples)});
  }
  if (labels.size() * of.rows.size() > kLinesOfLabels)
    return totals.text() + fmt::format("  labels by {}: see metrics.json\n", of.column);
  Table each({"label", of.column, "present", "absent", "AUC", "AP"});
  const LabelIntervals without;
  for (size_t c = 0; c < labels.size(); ++c)
    for (const LabelSubgroup& s : of.rows) {
      const LabelMetrics& l = s.metrics.labels[c];
      const LabelIntervals& i = s.intervals ? s.intervals->labels[c] : without;
      const int64_t rarer = std::min(l.positives, l.negatives);
      each.add({labels[c], shown(s.value), std::to_string(l.positives), std::to_string(l.negatives),
                with_bounds(l.auc, i.auc, rarer),
                with_bounds(l.average_precision, i.average_precision, l.positives)});
    }
  return totals.text() + each.text();
}

}  // namespace

std::string table(const LabelScore& score, std::span<const std::string> labels) {
  const MultilabelMetrics& m = score.metrics;
  std::string text =
      fmt::format("{} images, {} labels, {} of {} entries missing; thresholds {} ({})\n", m.samples,
                  labels.size(), m.missing, m.samples * int64_t(labels.size()),
                  score.options.decided_here           ? "chosen on these images"
                  : score.options.cross_fitted.empty() ? "of the validation images"
                                                       : "of the other folds",
                  rule_of(score.options));
  const MultilabelIntervals none, &i = score.intervals ? *score.intervals : none;
  if (score.intervals)
    text += fmt::format("{:.0f}% intervals in brackets{}\n", 100 * kLevel,
                        i.grouped ? fmt::format(", by {} groups", i.units) : "");
  const auto line = [&](std::string_view name, const std::optional<double>& value,
                        const FigureInterval& bounds) {
    text += fmt::format("  {:<20} {:>7}", name, number_or_dash(value));
    if (bounds) text += fmt::format("  [{:.4f}, {:.4f}]", bounds->low, bounds->high);
    text += '\n';
  };
  line("loss", m.loss, i.loss);
  line("all labels right", m.subset_accuracy, i.subset_accuracy);
  line("Hamming loss", m.hamming_loss, i.hamming_loss);
  line("Brier score", m.brier, i.brier);
  line("macro AUC", m.macro.auc, i.macro.auc);
  line("macro AP", m.macro.average_precision, i.macro.average_precision);
  const int64_t known = m.samples * int64_t(labels.size()) - m.missing;
  if (m.loss) line("calibration error", score.calibration.error, {});
  text += calibration_lines(score, score.options, known);
  text += rejection_lines(score, score.options, known, Task::labels);

  size_t width = 16;
  for (const std::string& name : labels) width = std::max(width, name.size());
  text += fmt::format("  {:<{}} {:>7} {:>7} {:>7} {:>7} {:>7} {:>11} {:>11} {:>11} {:>9} {:>7}\n",
                      "label", width, "present", "absent", "missing", "AUC", "AP", "threshold",
                      "sensitivity", "specificity", "precision", "F1");
  const auto row = [&](std::string_view name, const std::string& counts,
                       const std::string& threshold, const LabelAverages& a) {
    text += fmt::format("  {:<{}} {} {:>7} {:>7} {:>11} {:>11} {:>11} {:>9} {:>7}\n", name, width,
                        counts, number_or_dash(a.auc), number_or_dash(a.average_precision),
                        threshold, number_or_dash(a.sensitivity), number_or_dash(a.specificity),
                        number_or_dash(a.precision), number_or_dash(a.f1));
  };
  const auto counts = [](int64_t present, int64_t absent, int64_t missing) {
    return fmt::format("{:>7} {:>7} {:>7}", present, absent, missing);
  };
  const auto threshold = [&](size_t c) {
    return number_of_sets(score.options, [&](const Decisions& d) {
      return label_thresholds(d, labels, score.options.calibrated)[c];
    });
  };
  int64_t present = 0, absent = 0;
  for (size_t c = 0; c < labels.size(); ++c) {
    const LabelMetrics& l = m.labels[c];
    row(labels[c], counts(l.positives, l.negatives, l.missing), threshold(c), figures_of(l));
    present += l.positives, absent += l.negatives;
  }
  row("macro average", std::string(23, ' '), "", m.macro);
  row("micro average", counts(present, absent, m.missing), "", m.micro);
  for (const LabelSubgroupTable& of : score.by) text += subgroups(of, labels);
  return text;
}

}  // namespace engine
