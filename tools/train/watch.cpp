#include "tools/train/watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/error.h"
#include "engine/measures/labels.h"

namespace engine {
namespace {

using Figure = Watch::Figure;

struct NamedFigure {
  std::string_view name;
  Figure figure;
};
constexpr NamedFigure kFigures[] = {{"top1", Figure::top1}, {"loss", Figure::loss},
                                    {"auc", Figure::auc},   {"ap", Figure::ap},
                                    {"f1", Figure::f1},     {"balanced", Figure::balanced}};
constexpr std::string_view kSensitivity = "sensitivity@", kRecall = ":recall";

}  // namespace

Watch parse_watch(const std::string& text) {
  if (const auto named = std::ranges::find(kFigures, text, &NamedFigure::name);
      named != std::end(kFigures))
    return {.figure = named->figure};
  if (text.ends_with(kRecall) && text.size() > kRecall.size())
    return {.figure = Figure::recall, .class_name = text.substr(0, text.size() - kRecall.size())};
  require(text.starts_with(kSensitivity), Failure::usage,
          "--watch {}: it is top1, loss, auc, ap, f1, balanced, sensitivity@SPECIFICITY or "
          "CLASS:recall",
          text);
  Watch watch{.figure = Figure::sensitivity};
  const char* const end = text.data() + text.size();
  const auto [stop, error] =
      std::from_chars(text.data() + kSensitivity.size(), end, watch.specificity);
  require(error == std::errc() && stop == end && watch.specificity > 0 && watch.specificity < 1,
          Failure::usage, "--watch {}: '{}' is no specificity above 0 and below 1", text,
          text.substr(kSensitivity.size()));
  return watch;
}

std::string to_string(const Watch& watch) {
  if (watch.figure == Figure::sensitivity)
    return fmt::format("{}{}", kSensitivity, watch.specificity);
  if (watch.figure == Figure::recall) return watch.class_name + std::string(kRecall);
  return std::string(std::ranges::find(kFigures, watch.figure, &NamedFigure::figure)->name);
}

void check_watch(const Watch& watch, const Dataset& validation) {
  if (watch.figure != Figure::recall) return;
  const bool labels = validation.task == Task::labels;
  const char* const what = labels ? "label" : "class";
  const auto& classes = validation.classes;
  const auto at = std::ranges::find(classes, watch.class_name);
  require(at != classes.end(), Failure::usage, "--watch {}: no {} \"{}\"; there are {}",
          to_string(watch), what, watch.class_name, fmt::join(classes, ", "));
  const auto watched = static_cast<size_t>(at - classes.begin());
  const auto has = [&](const Sample& sample) {
    return labels ? sample.labels[watched] == Presence::present
                  : sample.label == static_cast<int>(watched);
  };
  require(std::ranges::any_of(validation.samples, has), Failure::usage,
          "--watch {}: no validation image {} {} \"{}\"", to_string(watch),
          labels ? "has the" : "is of", what, watch.class_name);
}

namespace {

std::optional<double> of_classes(const Watch& watch, const Metrics& m,
                                 const EvaluationResult& result, const Dataset& data) {
  const int count = static_cast<int>(data.classes.size());
  if (watch.figure == Figure::f1) return m.macro.f1;
  if (watch.figure == Figure::balanced) return m.balanced_accuracy;
  if (watch.figure == Figure::sensitivity) {
    const CountedSamples counted = counted_samples(result, data);
    return mean_sensitivity_at(softmax_rows(counted.logits, count), counted.labels, count,
                               watch.specificity);
  }
  const ClassMetrics& c =
      m.classes[std::ranges::find(data.classes, watch.class_name) - data.classes.begin()];
  if (c.support == 0) return std::nullopt;
  return c.recall;
}

std::optional<double> of_labels(const Watch& watch, const EvaluationResult& result,
                                const Dataset& data) {
  const int count = static_cast<int>(data.classes.size());
  const auto [logits, presence] = counted_labels(result, data);
  if (watch.figure == Figure::sensitivity)
    return mean_label_sensitivity_at(logits, presence, count, watch.specificity);
  const MultilabelMetrics m = evaluate_labels(logits, presence, count);
  if (watch.figure == Figure::f1) return m.macro.f1;
  if (watch.figure == Figure::recall)
    return m.labels[std::ranges::find(data.classes, watch.class_name) - data.classes.begin()]
        .called.sensitivity();
  double sum = 0, labels = 0;
  for (const LabelMetrics& label : m.labels) {
    const auto present = label.called.sensitivity(), absent = label.called.specificity();
    if (present && absent) sum += (*present + *absent) / 2, ++labels;
  }
  return labels > 0 ? std::optional(sum / labels) : std::nullopt;
}

}  // namespace

std::optional<double> watched_figure(const Watch& watch, const Metrics& m,
                                     const EvaluationResult& result, const Dataset& validation) {
  if (std::ranges::count(result.counted, 0) == std::ssize(result.counted)) return std::nullopt;
  switch (watch.figure) {
    case Figure::top1: return m.top1;
    case Figure::loss: return m.loss;
    case Figure::auc: return m.auc_macro;
    case Figure::ap: return m.average_precision_macro;
    default: break;
  }
  return validation.task == Task::labels ? of_labels(watch, result, validation)
                                         : of_classes(watch, m, result, validation);
}

std::string watched_text(const Watch& watch, double merit) {
  if (watch.figure == Figure::top1 || watch.figure == Figure::loss || !std::isfinite(merit))
    return "";
  return fmt::format(", {} {:.4f}", to_string(watch), merit);
}

double merit(const Watch& watch, const std::optional<double>& figure) {
  if (!figure) return std::numeric_limits<double>::quiet_NaN();
  return watch.figure == Figure::loss ? -*figure : *figure;
}

}  // namespace engine
