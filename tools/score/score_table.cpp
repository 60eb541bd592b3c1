// A score as people read it, in 80 columns.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tools/score/score.h"
#include "tools/score/text_table.h"

namespace engine {
namespace {

constexpr size_t kClassesWithThresholds = 12;  // of more, metrics.json tells

struct TotalLine {
  const char* title;
  Total total;
};
constexpr TotalLine kTotalLines[] = {{"loss", Total::loss},
                                     {"top-1", Total::top1},
                                     {"top-5", Total::top5},
                                     {"balanced accuracy", Total::balanced_accuracy},
                                     {"macro F1", Total::f1_macro},
                                     {"weighted F1", Total::f1_weighted},
                                     {"macro AUC", Total::auc_macro},
                                     {"micro AUC", Total::auc_micro},
                                     {"average precision", Total::average_precision_macro},
                                     {"Cohen's kappa", Total::cohen_kappa},
                                     {"kappa, quadratic", Total::kappa_quadratic},
                                     {"Brier score", Total::brier},
                                     {"calibration error", Total::calibration_error}};

std::string head(const Score& s) {
  std::string text = fmt::format("{} images", s.metrics.samples);
  if (s.intervals && s.intervals->grouped) text += fmt::format(" of {} groups", s.intervals->units);
  if (s.options.calibrated) text += ", calibrated";
  if (!s.intervals) return text + '\n';
  text += fmt::format(", {:.0f}% intervals in brackets", 100 * kLevel);
  return text + (s.intervals->grouped ? ", by groups\n" : "\n");
}

std::string totals(const Score& s) {
  const int64_t samples = s.metrics.samples;
  std::string text;
  for (const auto& [title, total] : kTotalLines) {
    const std::optional<double> value = value_of(s.metrics, total);
    text += fmt::format("  {:<20} {:>7}", title, number_text(value, samples));
    if (const FigureInterval interval = s.intervals ? (*s.intervals)[total] : std::nullopt;
        interval && value)
      text += "  " + bounds_text(interval, samples);
    text += '\n';
  }
  return text;
}

// The smaller of positives and negatives: what an area is known by.
int64_t rarer(const Metrics& m, const ClassMetrics& k) {
  return std::min(k.support, m.samples - k.support);
}

std::string class_table(const Score& s, std::span<const std::string> classes) {
  const Metrics& m = s.metrics;
  if (!s.intervals) {
    Table table({"class", "images", "precision", "recall", "specificity", "F1", "AUC"});
    const auto row = [&](const std::string& name, int64_t images, const auto& figure) {
      table.add(
          {name, std::to_string(images), figure[0], figure[1], figure[2], figure[3], figure[4]});
    };
    for (size_t c = 0; c < classes.size(); ++c) {
      const ClassMetrics& k = m.classes[c];
      row(classes[c], k.support,
          std::array{number_text(k.precision, k.predicted), number_text(k.recall, k.support),
                     number_text(k.specificity, m.samples - k.support),
                     number_text(k.f1, k.support + k.predicted), number_text(k.auc, rarer(m, k))});
    }
    const auto average = [&](const char* name, const Averages& a,
                             const std::optional<double>& auc) {
      const auto text = [&](double value) { return number_text(value, m.samples); };
      row(name, m.samples,
          std::array{text(a.precision), text(a.recall), text(a.specificity), text(a.f1),
                     number_text(auc, m.samples)});
    };
    average("macro average", m.macro, m.auc_macro);
    average("weighted average", m.weighted, std::nullopt);
    return table.text();
  }
  Table table({"class", "images", "recall", "precision", "AUC"});
  for (size_t c = 0; c < classes.size(); ++c) {
    const ClassMetrics& k = m.classes[c];
    const ClassIntervals& i = s.intervals->classes[c];
    table.add({classes[c], std::to_string(k.support),
               with_bounds(share_if_any(k.support, k.recall), i.recall, k.support),
               with_bounds(share_if_any(k.predicted, k.precision), i.precision, k.predicted),
               with_bounds(k.auc, i.auc, rarer(m, k))});
  }
  return table.text();
}

std::string thresholds(const Score& s, std::span<const std::string> classes) {
  if (s.called.empty()) return "";
  const std::string rule = rule_of(s.options);
  const char* const where = s.options.cross_fitted.empty() ? "validation" : "the other folds";
  if (classes.size() > kClassesWithThresholds)
    return fmt::format("  thresholds of {} by {}: see metrics.json\n", where, rule);
  Table table({"at thresholds", "p at least", "sensitivity", "specificity", "precision"});
  for (size_t c = 0; c < classes.size(); ++c) {
    if (!s.called[c]) {
      table.add({classes[c], "-", "-", "-", "-"});
      continue;
    }
    const Called& k = *s.called[c];
    const int64_t positives = k.true_positives + k.false_negatives;
    table.add(
        {classes[c],
         number_of_sets(s.options,
                        [&](const Decisions& d) { return thresholds_by_name(d, classes)[c]; }),
         number_text(k.sensitivity(), positives),
         number_text(k.specificity(), s.metrics.samples - positives),
         number_text(k.precision(), k.true_positives + k.false_positives)});
  }
  return fmt::format("  thresholds of {} by {}, each class against the rest:\n{}", where, rule,
                     table.text());
}

std::string subgroups(const SubgroupTable& of) {
  Table table({of.column, "images", "groups", "top-1", "balanced", "AUC"});
  for (const Subgroup& g : of.rows) {
    const auto interval = [&](Total t) { return g.intervals ? (*g.intervals)[t] : std::nullopt; };
    table.add({g.value.empty() ? "(empty)" : g.value, std::to_string(g.samples),
               g.groups > 0 ? std::to_string(g.groups) : "-",
               with_bounds(g.top1, interval(Total::top1), g.samples),
               with_bounds(g.balanced_accuracy, interval(Total::balanced_accuracy), g.samples),
               with_bounds(g.auc_macro, interval(Total::auc_macro), g.samples)});
  }
  return table.text();
}

}  // namespace

std::string table(const Score& score, std::span<const std::string> classes) {
  std::string text = head(score) + totals(score) +
                     calibration_lines(score, score.options, score.metrics.samples) +
                     rejection_lines(score, score.options, score.metrics.samples, Task::classes) +
                     class_table(score, classes) + thresholds(score, classes);
  for (const SubgroupTable& of : score.by) text += subgroups(of);
  return text;
}

}  // namespace engine
