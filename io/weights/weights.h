// Weight files of any supported kind, and whether what they hold fits a model.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "io/weights/state_dict.h"

namespace engine {

// Reads a safetensors file, a torch zip archive or an older torch pickle, which the first bytes
// tell apart. The state dict is taken from where it is nested (state_dict.h), without the prefixes
// of strip_prefixes(). Counters of averages and of profilers (drop_counters) are left out, which is
// said. Names are otherwise as in the file: see normalise_names. Error(weights) if the file cannot
// be read, is not what its seal says (seal.h), or holds what no model may (fault_in); Error(usage)
// for a key that it does not have.
TensorFile read_weights(const std::filesystem::path& path, const ReadOptions& options = {});

// The number of trained values, without running statistics and batch counters.
int64_t count_parameters(const TensorFile& file);

struct Expected {
  std::string name;
  Shape shape;
  bool head = false;      // its first dimension, the number of classes, may differ
  bool optional = false;  // it may be missing: batch counters, which older files do not have
};

struct Matched {
  // The head's tensors, in the model's order, if they are of another size or all missing.
  std::vector<std::string> reinitialised;
};

// Compares the tensors of a file, whose path is for messages, with what the model expects. Any
// other difference is one Error(weights) that lists what is missing, unexpected and misshaped.
Matched match_weights(const TensorFile& file, std::span<const Expected> model,
                      const std::filesystem::path& path);

}  // namespace engine
