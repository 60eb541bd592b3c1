#include "tools/engine/predict_labels.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/measures/labels.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/score/label_score.h"

namespace engine {

std::vector<std::string> output_names(const std::vector<std::string>& classes, int count) {
  if (!classes.empty()) return classes;
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

std::string label_csv_head(const std::vector<std::string>& labels) {
  std::string text = "path,labels";
  for (const std::string& name : labels) text += ',' + csv_field("p:" + name);
  return text + '\n';
}

std::string label_line(const std::string& path, std::span<const float> logits,
                       const std::vector<std::string>& labels,
                       const std::optional<Thresholds>& thresholds, PredictFormat format) {
  const std::vector<double> p = sigmoids(logits);
  const std::vector<double> from = threshold_values(thresholds.value_or(Thresholds{}), labels);
  std::vector<size_t> present;
  for (size_t c = 0; c < p.size(); ++c)
    if (p[c] >= from[c]) present.push_back(c);
  if (format == PredictFormat::json) {
    nlohmann::ordered_json json = {{"path", utf8_from_bytes(path)},
                                   {"labels", nlohmann::ordered_json::array()}};
    for (const size_t c : present)
      json["labels"].push_back(
          {{"name", utf8_from_bytes(labels[c])}, {"probability", p[c]}, {"threshold", from[c]}});
    for (size_t c = 0; c < p.size(); ++c) json["probabilities"][utf8_from_bytes(labels[c])] = p[c];
    json["logits"] = std::vector<float>(logits.begin(), logits.end());
    return print_json(json) + '\n';
  }
  std::vector<std::string> names;
  for (const size_t c : present)
    names.push_back(format == PredictFormat::csv
                        ? labels[c]
                        : fmt::format("{} ({:.1f}%)", labels[c], 100 * p[c]));
  if (format == PredictFormat::csv) {
    std::string line = csv_field(path) + ',' + csv_field(fmt::format("{}", fmt::join(names, "|")));
    for (const double probability : p) line += fmt::format(",{:.6f}", probability);
    return line + '\n';
  }
  if (!names.empty()) return fmt::format("{}: {}\n", path, fmt::join(names, ", "));
  const size_t best = size_t(std::ranges::max_element(p) - p.begin());
  return fmt::format("{}: no label; the most likely is {} ({:.1f}%)\n", path, labels[best],
                     100 * p[best]);
}

}  // namespace engine
