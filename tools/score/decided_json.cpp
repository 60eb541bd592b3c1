// What decisions make of a part, as members of metrics.json.
#include <nlohmann/json.hpp>

#include "io/files/utf8.h"
#include "tools/score/decided.h"
#include "tools/score/number_or_null.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const Confidence& c, const std::optional<double>& temperature, Task task) {
  return {{"temperature", number_or_null(temperature)},
          {"loss", c.loss},
          {"brier", c.brier},
          {"calibration_error", c.calibration.error},
          {"calibration", to_json(c.calibration.bins, task)}};
}

Json to_json(const FoldDecisions& of, bool calibrated) {
  const Decisions& d = of.decisions;
  Json json = {{"fold", of.fold}, {"temperature", number_or_null(d.temperature)}};
  json["reject_threshold"] = d.reject ? number_or_null(d.reject->of(calibrated)) : Json();
  json["thresholds"] = Json::object();
  if (d.thresholds)
    for (const ClassThreshold& c : d.thresholds->classes)
      json["thresholds"][utf8_from_bytes(c.name)] = number_or_null(c.threshold);
  return json;
}

}  // namespace

Json to_json(const std::array<CalibrationBin, kCalibrationBins>& bins, Task task) {
  const bool labels = task == Task::labels;
  Json json = Json::array();
  for (int i = 0; i < kCalibrationBins; ++i) {
    const auto mean = [&](double value) { return bins[i].samples > 0 ? Json(value) : Json(); };
    json.push_back({{"from", double(i) / kCalibrationBins},
                    {"to", double(i + 1) / kCalibrationBins},
                    {"samples", bins[i].samples},
                    {labels ? "probability" : "confidence", mean(bins[i].confidence)},
                    {labels ? "present" : "accuracy", mean(bins[i].accuracy)}});
  }
  return json;
}

void add_decided(Json& json, const Decided& decided, const ScoreOptions& options, Task task) {
  const auto& temperature = options.decisions.temperature;
  if (temperature) json["temperature"] = *temperature;
  if (decided.calibrated) json["calibrated"] = to_json(*decided.calibrated, temperature, task);
  if (decided.as_given && options.calibrated)
    json["uncalibrated"] = to_json(*decided.as_given, 1, task);
  for (const RejectPoint& point : decided.reject)
    json["reject"].push_back({{"threshold", point.threshold},
                              {"coverage", point.coverage},
                              {"accuracy", point.accuracy}});
  if (const auto& answered = decided.answered)
    json["reject_threshold"] = {
        {"validation_accuracy", sets_of(options)[0]->reject->accuracy},
        {"threshold", number_or_null(answered->threshold)},
        {"coverage", answered->coverage},
        {"accuracy", answered->coverage > 0 ? Json(answered->accuracy) : Json()}};
  for (const FoldDecisions& fold : options.cross_fitted)
    json["cross_fitted"].push_back(to_json(fold, options.calibrated));
}

}  // namespace engine
