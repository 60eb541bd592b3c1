#include "tools/train/watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/error.h"

namespace engine {
namespace {

using Figure = Watch::Figure;

struct NamedFigure {
  std::string_view name;
  Figure figure;
};
constexpr NamedFigure kFigures[] = {{"top1", Figure::top1},
                                    {"loss", Figure::loss},
                                    {"auc", Figure::auc},
                                    {"f1", Figure::f1},
                                    {"balanced", Figure::balanced}};
constexpr std::string_view kSensitivity = "sensitivity@", kRecall = ":recall";

}  // namespace

Watch parse_watch(const std::string& text) {
  if (const auto named = std::ranges::find(kFigures, text, &NamedFigure::name);
      named != std::end(kFigures))
    return {.figure = named->figure};
  if (text.ends_with(kRecall) && text.size() > kRecall.size())
    return {.figure = Figure::recall, .class_name = text.substr(0, text.size() - kRecall.size())};
  require(
      text.starts_with(kSensitivity), Failure::usage,
      "--watch {}: it is top1, loss, auc, f1, balanced, sensitivity@SPECIFICITY or CLASS:recall",
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
  const bool of_labels =
      watch.figure == Figure::top1 || watch.figure == Figure::loss || watch.figure == Figure::auc;
  require(
      of_labels || validation.task == Task::classes, Failure::usage,
      "--watch {}: of several labels per image it is loss, auc or top1 (all labels right); what "
      "needs thresholds is not known before the training is done",
      to_string(watch));
  if (watch.figure != Figure::recall) return;
  const auto& classes = validation.classes;
  const auto at = std::ranges::find(classes, watch.class_name);
  require(at != classes.end(), Failure::usage, "--watch {}: no class \"{}\"; there are {}",
          to_string(watch), watch.class_name, fmt::join(classes, ", "));
  const auto label = static_cast<int>(at - classes.begin());
  require(std::ranges::find(validation.samples, label, &Sample::label) != validation.samples.end(),
          Failure::usage, "--watch {}: no validation image is of class \"{}\"", to_string(watch),
          watch.class_name);
}

std::optional<double> watched_figure(const Watch& watch, const Metrics& m,
                                     std::span<const float> logits, std::span<const int32_t> labels,
                                     std::span<const std::string> classes) {
  switch (watch.figure) {
    case Figure::top1: return m.top1;
    case Figure::loss: return m.loss;
    case Figure::auc: return m.auc_macro;
    case Figure::f1: return m.macro.f1;
    case Figure::balanced: return m.balanced_accuracy;
    case Figure::sensitivity: {
      const int count = static_cast<int>(classes.size());
      return mean_sensitivity_at(softmax_rows(logits, count), labels, count, watch.specificity);
    }
    case Figure::recall: {
      const ClassMetrics& c =
          m.classes[std::ranges::find(classes, watch.class_name) - classes.begin()];
      if (c.support == 0) return std::nullopt;
      return c.recall;
    }
  }
  return std::nullopt;
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
