#include "tools/data/class_weights.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

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

std::vector<double> read_weights_file(const std::string& path, const Dataset& train) {
  const Csv csv = read_csv(path);
  const int name = csv.column("class"), value = csv.column("weight");
  require(name >= 0 && value >= 0, Failure::data, "{}: its first line is not `class,weight`", path);
  std::vector<double> weights(train.classes.size(), -1);
  for (const CsvRow& row : csv.rows) {
    const std::string &text = row.fields[value], &wanted = row.fields[name];
    const auto at = std::find(train.classes.begin(), train.classes.end(), wanted);
    require(at != train.classes.end(), Failure::data, "{}:{}: no class '{}'", path, row.line,
            wanted);
    char* end = nullptr;
    const double weight = std::strtod(text.c_str(), &end);
    require(end != text.c_str() && *end == 0 && weight > 0 && std::isfinite(weight), Failure::data,
            "{}:{}: '{}' is no finite weight above 0", path, row.line, text);
    double& own = weights[at - train.classes.begin()];
    require(own < 0, Failure::data, "{}:{}: a second weight of class '{}'", path, row.line, wanted);
    own = weight;
  }
  for (size_t i = 0; i < weights.size(); ++i)
    require(weights[i] > 0, Failure::data, "{}: no weight for class '{}'", path, train.classes[i]);
  return weights;
}

}  // namespace

std::vector<double> class_weights(const std::string& text, const Dataset& train) {
  if (text == "none") return {};
  return text == "auto" ? balanced(train) : read_weights_file(text, train);
}

}  // namespace engine
