#include "tools/train/parameter_rules.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <vector>

#include "engine/error.h"

namespace engine {

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

std::string layer_of(const std::string& name) {
  if (name.starts_with("bn1.")) return "conv1.";  // the stem of a ResNet
  const std::vector<std::string> parts = split(name, '.');
  const bool block = parts.size() > 4 && parts[3] == "block";
  const bool dense = parts.size() > 3 && parts[2].starts_with("denselayer");
  const size_t depth = std::min(block || dense ? size_t{3} : size_t{2}, parts.size() - 1);
  std::string layer;
  for (size_t i = 0; i < depth; ++i) layer += parts[i] + '.';
  return layer;
}

// The rates by parameter name: layer_decay to the power of the number of layers above, and what the
// backbone has of it.
std::map<std::string, double> rates_by_layer(const Graph& graph, double layer_decay,
                                             double backbone) {
  std::map<std::string, int> layers;
  for (const Parameter& p : graph.parameters)
    if (p.trained()) layers.emplace(layer_of(p.name), static_cast<int>(layers.size()));
  std::map<std::string, double> rates;
  const int last = static_cast<int>(layers.size()) - 1;
  for (const Parameter& p : graph.parameters)
    if (p.trained())
      rates[p.name] =
          std::pow(layer_decay, last - layers.at(layer_of(p.name))) * (p.head ? 1 : backbone);
  return rates;
}

}  // namespace

std::function<ParameterRule(const Parameter&)> parameter_rule(const RuleOptions& options,
                                                              const Graph& graph, int epoch) {
  const std::vector<std::string> frozen = split(options.freeze, ',');
  for (const std::string& prefix : frozen)
    require(std::any_of(graph.parameters.begin(), graph.parameters.end(),
                        [&](const Parameter& p) { return p.name.starts_with(prefix); }),
            Failure::usage, "--freeze {}: no parameter has a name that begins so; the first is {}",
            prefix, graph.parameters.front().name);
  const auto is_frozen = [frozen](const Parameter& p) {
    return std::ranges::any_of(
        frozen, [&](const std::string& prefix) { return p.name.starts_with(prefix); });
  };
  require(!std::ranges::all_of(graph.parameters,
                               [&](const Parameter& p) { return !p.trained() || is_frozen(p); }),
          Failure::usage, "--freeze {}: no parameter is left to train", options.freeze);
  const double backbone = options.head_alone(epoch) ? 0 : options.backbone_factor;
  return [is_frozen, all = options.decay_all,
          rates = rates_by_layer(graph, options.layer_decay, backbone)](const Parameter& p) {
    return ParameterRule{.rate = is_frozen(p) ? 0 : rates.at(p.name),
                         .decay = all || decays_weight(p)};
  };
}

}  // namespace engine
