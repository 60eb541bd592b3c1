#include "tools/score/metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "io/weights/weight_names.h"
#include "tools/score/number_or_null.h"

namespace engine {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The number that is all of the text, which calls itself `what`.
double number_of(const std::string& text, const char* what, const fs::path& path) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), Failure::weights,
          "{}: '{}' in its metadata is no {}", path.string(), text, what);
  return value;
}

// A share from 0 to 1, or nothing where the member is null or not there.
std::optional<double> share_in(const Json& object, const char* member, const fs::path& path) {
  const auto at = object.find(member);
  if (at == object.end() || at->is_null()) return std::nullopt;
  require(at->is_number() && at->get<double>() >= 0 && at->get<double>() <= 1, Failure::weights,
          "{}: the {} of a threshold in its metadata is no number from 0 to 1", path.string(),
          member);
  return at->get<double>();
}

Thresholds thresholds_from_json(const std::string& text, const fs::path& path) {
  const Json json = json_or_null<Json>(text);
  const auto member = [&](const char* name) {
    return json.is_object() ? json.value(name, Json()) : Json();
  };
  const Json rule = member("rule"), classes = member("classes");
  require(rule.is_string() && classes.is_object(), Failure::weights,
          "{}: the thresholds in its metadata are no JSON object with rule and classes",
          path.string());
  Thresholds thresholds{.rule = rule.get<std::string>()};
  for (const auto& [name, of_class] : classes.items()) {
    require(of_class.is_object(), Failure::weights,
            "{}: the threshold of a class in its metadata is no JSON object", path.string());
    thresholds.classes.push_back({bytes_from_utf8(name), share_in(of_class, "threshold", path),
                                  share_in(of_class, "sensitivity", path),
                                  share_in(of_class, "specificity", path)});
  }
  return thresholds;
}

std::string to_json(const RejectThreshold& reject) {
  return print_json(Json{{"accuracy", reject.accuracy},
                         {"threshold", number_or_null(reject.as_given)},
                         {"calibrated", number_or_null(reject.calibrated)}});
}

RejectThreshold reject_from_json(const std::string& text, const fs::path& path) {
  const Json json = json_or_null<Json>(text);
  const auto accuracy =
      json.is_object() ? share_in(json, "accuracy", path) : std::optional<double>();
  require(accuracy.has_value(), Failure::weights,
          "{}: what it rejects by its metadata is no JSON object with an accuracy", path.string());
  return {*accuracy, share_in(json, "threshold", path), share_in(json, "calibrated", path)};
}

}  // namespace

std::string to_json(const std::vector<std::string>& names) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& name : names) list.push_back(utf8_from_bytes(name));
  return print_json(list);
}

std::vector<std::string> names_from_json(const std::string& text, const fs::path& path) {
  const auto json = json_or_null<nlohmann::json>(text);
  const auto is_string = [](const nlohmann::json& j) { return j.is_string(); };
  require(json.is_array() && std::all_of(json.begin(), json.end(), is_string), Failure::weights,
          "{}: the class names in its metadata are no JSON array of strings", path.string());
  std::vector<std::string> names;
  for (const auto& name : json) names.push_back(bytes_from_utf8(name.get<std::string>()));
  return names;
}

std::string to_json(const Thresholds& thresholds) {
  Json json = {{"rule", thresholds.rule}, {"classes", Json::object()}};
  for (const ClassThreshold& c : thresholds.classes)
    json["classes"][utf8_from_bytes(c.name)] = {{"threshold", number_or_null(c.threshold)},
                                                {"sensitivity", number_or_null(c.sensitivity)},
                                                {"specificity", number_or_null(c.specificity)}};
  return print_json(json);
}

Decisions decisions_of(const std::map<std::string, std::string>& metadata, const fs::path& path) {
  Decisions d;
  const auto end = metadata.end();
  if (const auto at = metadata.find(kTemperature); at != end) {
    d.temperature = number_of(at->second, "temperature", path);
    require(std::isfinite(*d.temperature) && *d.temperature > 0, Failure::weights,
            "{}: '{}' in its metadata is no temperature", path.string(), at->second);
  }
  if (const auto at = metadata.find(kThresholds); at != end)
    d.thresholds = thresholds_from_json(at->second, path);
  if (const auto at = metadata.find(kReject); at != end)
    d.reject = reject_from_json(at->second, path);
  return d;
}

void put_decisions(std::map<std::string, std::string>& metadata, const Decisions& decisions) {
  for (const char* name : {kTemperature, kThresholds, kReject}) metadata.erase(name);
  if (decisions.temperature) metadata[kTemperature] = fmt::format("{}", *decisions.temperature);
  if (decisions.thresholds) metadata[kThresholds] = to_json(*decisions.thresholds);
  if (decisions.reject) metadata[kReject] = to_json(*decisions.reject);
}

Task task_of(const std::map<std::string, std::string>& metadata, const fs::path& path) {
  const auto found = metadata.find(kTask);
  if (found == metadata.end() || found->second == "multiclass") return Task::classes;
  require(found->second == kMultilabel, Failure::weights,
          "{}: '{}' in its metadata is no task: multiclass or multilabel", path.string(),
          found->second);
  return Task::labels;
}

std::optional<double> norm_epsilon_of(const std::map<std::string, std::string>& metadata,
                                      const fs::path& path) {
  const auto found = metadata.find(kNormEpsilon);
  if (found == metadata.end()) return std::nullopt;
  const double value = number_of(found->second, "epsilon of norms", path);
  require(value > 0 && value < 1, Failure::weights,
          "{}: '{}' in its metadata is no epsilon of norms", path.string(), found->second);
  return value;
}

}  // namespace engine
