// Weight files of any supported kind, and whether what they hold fits a model.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace engine {

// safetensors, torch zip archive or older torch pickle, told apart by their first bytes; the state
// dict wherever it is nested (pth.h), without `module.` and `_orig_mod.`. Names are otherwise as in
// the file: see normalise_names.
TensorFile read_weights(const std::filesystem::path& path);

// Trained values: neither running statistics nor batch counters.
int64_t count_parameters(const TensorFile& file);

struct Expected {
  std::string name;
  Shape shape;
  bool head = false;      // may have another number of classes: its first dimension
  bool optional = false;  // may be missing: batch counters, which older files do not have
};

struct Matched {
  std::vector<std::string> reinitialised;  // head tensors of another size, in the model's order
};

// Any other difference is one Error(weights) that lists what is missing, unexpected and misshaped.
Matched match_weights(const TensorFile& file, std::span<const Expected> model,
                      const std::filesystem::path& path);

}  // namespace engine
