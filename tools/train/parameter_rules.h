// Which parameters learn, how fast, and which decay.
#pragma once

#include <functional>
#include <string>

#include "engine/optimizer.h"

namespace engine {

struct RuleOptions {
  bool decay_all = true;       // false: norms and biases do not decay
  std::string freeze;          // prefixes of names with commas between them: these parameters stay
  double layer_decay = 1;      // factor on the rate per layer, counted from the head, as in timm
  double backbone_factor = 1;  // on the rate of every layer but the head
  int freeze_epochs = 0;       // at the beginning, in which the head alone learns

  bool head_alone(int epoch) const { return epoch < freeze_epochs; }  // epochs count from 0
};

// A layer is a block (features.4.1, features.denseblock2.denselayer3, layer2.0), or a stem,
// transition or head; layers are counted in the order of the graph. The rules are those of an
// epoch, counted from 0. A prefix that no parameter has is an Error(usage).
std::function<ParameterRule(const Parameter&)> parameter_rule(const RuleOptions& options,
                                                              const Graph& graph, int epoch);

}  // namespace engine
