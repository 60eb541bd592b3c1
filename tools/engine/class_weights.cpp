#include "tools/engine/class_weights.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "engine/error.h"

namespace engine {

namespace {

std::vector<double> balanced(const Dataset& train) {
  std::vector<double> counts(train.classes.size());
  for (const Sample& sample : train.samples) ++counts[sample.label];
  std::vector<double> weights;
  for (double count : counts)
    weights.push_back(static_cast<double>(train.samples.size()) /
                      (static_cast<double>(counts.size()) * count));
  return weights;
}

std::vector<double> read_weights_file(const std::string& path, const Dataset& train) {
  std::ifstream in(path);
  require(in.is_open(), Failure::usage, "--class-weights {}: cannot open it", path);
  std::vector<double> weights(train.classes.size(), -1);
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    const size_t comma = line.rfind(',');
    require(comma != std::string::npos, Failure::data, "{}:{}: not `class,weight`", path, number);
    const auto at = std::find(train.classes.begin(), train.classes.end(), line.substr(0, comma));
    require(at != train.classes.end(), Failure::data, "{}:{}: no class '{}'", path, number,
            line.substr(0, comma));
    char* end = nullptr;
    const double weight = std::strtod(line.c_str() + comma + 1, &end);
    require(end != line.c_str() + comma + 1 && *end == 0 && weight > 0, Failure::data,
            "{}:{}: '{}' is no weight above 0", path, number, line.substr(comma + 1));
    weights[at - train.classes.begin()] = weight;
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
