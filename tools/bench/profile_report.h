// A profile for people, for scripts and for viewers of traces.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/profile.h"

namespace engine {

// Launches that have something in common: a kind, a layer, a direction.
struct ProfileGroup {
  std::string name;
  int launches = 0, kernels = 0;
  double ms = 0, gap_ms = 0, least_ms = 0;
};

enum class GroupBy { kind, layer, phase };
// The longest first; phases in their order.
std::vector<ProfileGroup> groups_of(const StepProfile& profile, GroupBy by);

// Time by kind, by direction and by layer (the `rows` longest; 0: all), memory by kind.
std::string profile_text(const StepProfile& profile, int rows);
// The same, and the gap report.
nlohmann::ordered_json profile_json(const StepProfile& profile);
// A row per launch, in the order of the step, with a header.
std::string profile_csv(const StepProfile& profile);
// One step as Chrome and Perfetto read it: a track per stream, the layers above.
std::string chrome_trace(const StepProfile& profile);

}  // namespace engine
