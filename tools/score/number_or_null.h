// Figures in JSON, which has no NaN.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

namespace engine {

// A figure that is not there, or not finite, is null.
inline nlohmann::ordered_json number_or_null(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

}  // namespace engine
