#include "tools/scale/presets.h"

#include <fmt/ranges.h>

#include "engine/error.h"

namespace engine {
namespace {

// The steps are ours where a study does not tell its own.
struct Preset {
  const char *name, *models, *counts, *batches, *precisions, *workers;
  bool gpu;
};

constexpr Preset kPresets[] = {
    // name, models, GPUs or ranks, batch sizes, precisions, loading threads
    {"R1", "efficientnet_b3", "1,2,4", "32,64,128", "fp32,fp16", nullptr, true},
    {"R2", "efficientnet_b3", "1,2,4", "32", "fp32,fp16", nullptr, true},
    {"R4", "mnist_cnn", "1,2,4", "128", "fp32", "1,8", true},
    {"R5-cpu", "densenet121,mnist_cnn", "1..8", "32", "fp32", nullptr, false},
    {"R5-gpu", "densenet121", "1..3", "16,32,64,128", "fp32,fp16", nullptr, true},
};

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

}  // namespace

StudyFlags preset_flags(std::string_view name) {
  for (const Preset& p : kPresets) {
    if (name != p.name) continue;
    StudyFlags flags{.models = p.models, .batches = p.batches, .precisions = p.precisions};
    (p.gpu ? flags.gpus : flags.ranks) = p.counts;
    if (p.workers) flags.workers = p.workers;
    return flags;
  }
  fail(Failure::usage, "--preset {}: there are {}", name, fmt::join(preset_names(), ", "));
}

}  // namespace engine
