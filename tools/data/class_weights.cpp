#include "tools/data/class_weights.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "engine/error.h"
#include "io/files/csv.h"

namespace engine {

namespace {

std::vector<double> balanced(const Dataset& train) {
  std::vector<double> counts(train.classes.size());
  for (const Sample& sample : train.samples) ++counts[sample.label];
  std::vector<double> weights;
  for (size_t i = 0; i < counts.size(); ++i)
    require(counts[i] > 0, Failure::data, "--class-weights auto: class '{}' has no training image",
            train.classes[i]);
  for (double count : counts)
    weights.push_back(static_cast<double>(train.samples.size()) /
                      (static_cast<double>(counts.size()) * count));
  return weights;
}

// `kind` is what weighs: class or label.
std::vector<double> read_weights_file(const char* flag, const std::string& path,
                                      const std::string& kind, const Dataset& train) {
  std::error_code error;
  require(std::filesystem::exists(path, error), Failure::usage,
          "{} {}: there is no such file, and the words it takes are none and auto", flag, path);
  const Csv csv = read_csv(path);
  const int name = csv.column(kind), value = csv.column("weight");
  require(name >= 0 && value >= 0, Failure::data, "{}: its first line is not `{},weight`", path,
          kind);
  std::vector<double> weights(train.classes.size(), -1);
  for (const CsvRow& row : csv.rows) {
    const std::string &text = row.fields[value], &wanted = row.fields[name];
    const auto at = std::find(train.classes.begin(), train.classes.end(), wanted);
    require(at != train.classes.end(), Failure::data, "{}:{}: no {} '{}'", path, row.line, kind,
            wanted);
    char* end = nullptr;
    const double weight = std::strtod(text.c_str(), &end);
    require(end != text.c_str() && *end == 0 && weight > 0 && std::isfinite(weight), Failure::data,
            "{}:{}: '{}' is no finite weight above 0", path, row.line, text);
    double& own = weights[at - train.classes.begin()];
    require(own < 0, Failure::data, "{}:{}: a second weight of {} '{}'", path, row.line, kind,
            wanted);
    own = weight;
  }
  for (size_t i = 0; i < weights.size(); ++i)
    require(weights[i] > 0, Failure::data, "{}: no weight for {} '{}'", path, kind,
            train.classes[i]);
  return weights;
}

}  // namespace

std::vector<double> class_weights(const std::string& text, const Dataset& train) {
  if (text == "none") return {};
  if (text == "auto") return balanced(train);
  return read_weights_file("--class-weights", text, "class", train);
}

std::vector<double> positive_weights(const std::string& text, const Dataset& train) {
  if (text == "none") return {};
  if (text != "auto") return read_weights_file("--positive-weights", text, "label", train);
  std::vector<double> weights;
  for (size_t c = 0; c < train.classes.size(); ++c) {
    const auto count = [&](Presence presence) {
      return std::ranges::count_if(train.samples,
                                   [&](const Sample& s) { return s.labels[c] == presence; });
    };
    const auto with = count(Presence::present), without = count(Presence::absent);
    require(with > 0 && without > 0, Failure::data,
            "--positive-weights auto: label '{}' is present in {} training images and absent in {}",
            train.classes[c], with, without);
    weights.push_back(static_cast<double>(without) / static_cast<double>(with));
  }
  return weights;
}

}  // namespace engine
