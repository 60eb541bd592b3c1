// What the tensors of no model may hold.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "engine/tensor.h"

namespace engine {

// Names the first tensor with a value that is NaN or infinite, or a running variance (by the name
// running_var) with one below 0, and that value: "bn1.running_var holds -1". Nothing: none does.
std::optional<std::string> fault_in(const std::map<std::string, Tensor>& tensors);

}  // namespace engine
