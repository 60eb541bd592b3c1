// What tells one run from another. Every checkpoint holds it, and a run that is resumed is compared
// with it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "io/images/preprocess.h"
#include "tools/cli/options.h"
#include "tools/data/data_options.h"
#include "tools/train/train_config.h"

namespace engine {

// What decides which images a step of an epoch gets. Their order follows from seed and sampler
// alone.
struct BatchOrder {
  int batch = 0, ranks = 1, accumulate = 1;
  uint64_t seed = 0;
  bool balanced = false;

  bool same_order(const BatchOrder& other) const {
    return seed == other.seed && balanced == other.balanced;
  }
  bool operator==(const BatchOrder&) const = default;
};
std::string to_string(const BatchOrder& order);  // "64 x 2 x 1, seed 0, balanced"

struct RunIdentity {
  std::string model;
  std::vector<std::string> classes;
  std::optional<double> norm_epsilon;  // none: the model's
  Preprocess preprocess;
  std::string image_names;  // SHA-256 of file names, labels and groups, not of where they lie
  std::string image_files;  // of file names alone
  BatchOrder batches;
  // The flags that do not have the rule kMayChange, by Flag::key(): their values as JSON.
  std::map<std::string, std::string> recipe;
  ImageDigests images;
  CacheKind cache = CacheKind::none;

  bool operator==(const RunIdentity&) const = default;
};

// All but `images` and `cache`, which the cache decides.
RunIdentity run_identity(const TrainConfig& config, const TrainingData& data, const Flags& flags,
                         int ranks);

// The texts by name that stand in the metadata of the checkpoint `path`, and back. A text that is
// missing, other than the epsilon, is an Error(weights).
std::map<std::string, std::string> to_metadata(const RunIdentity& identity);
RunIdentity run_identity_from(const std::map<std::string, std::string>& metadata,
                              const std::filesystem::path& path);

// Throws Error where a run with the identity `now` cannot go on from a checkpoint with `before`:
// the classes or images are others or, `within_epoch`, the batches. Says which flags of the recipe
// have another value.
void check_same_run(const RunIdentity& before, const RunIdentity& now, bool within_epoch);

}  // namespace engine
