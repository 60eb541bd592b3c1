// Intervals as members of metrics.json.
#pragma once

#include <nlohmann/json.hpp>

#include "engine/measures/resampling.h"
#include "tools/score/score.h"

namespace engine {

inline nlohmann::ordered_json to_json(const FigureInterval& i) {
  return i ? nlohmann::ordered_json::array({i->low, i->high}) : nlohmann::ordered_json();
}

// What is said of all of them: level, resamples, seed, over, and groups where these are drawn.
inline nlohmann::ordered_json drawing_json(int64_t units, bool grouped,
                                           const ScoreOptions& options) {
  nlohmann::ordered_json json = {{"level", kLevel},
                                 {"resamples", options.resamples},
                                 {"seed", options.seed},
                                 {"over", grouped ? "groups" : "images"}};
  if (grouped) json["groups"] = units;
  return json;
}

}  // namespace engine
