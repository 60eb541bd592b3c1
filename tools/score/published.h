// Weights by the names under which they are published.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "io/images/preprocess.h"
#include "io/weights/manifest.h"

namespace engine {

// Where fetched files are kept: weights/ in cache_folder().
std::filesystem::path weights_folder();

// The file of an entry, fetched if it is not there; what is done is said, with a progress line. As
// fetch_weights(); a request to stop is an Error(preempted).
std::filesystem::path fetch_published(const ManifestEntry& entry);

// How pictures are prepared for a published file, which is known by its name; nothing if it is not
// listed, or if the model's own way serves.
std::optional<Preprocess> published_preprocess(const std::filesystem::path& file);

struct NamedWeights {
  std::filesystem::path file;
  std::string model;  // of the entry; as given where a file was given
};

// What follows --weights: the folder of a run, of which the best weights are taken, a file, or a
// name as of find_entry(), whose file is fetched. Error(usage) if it is none of them, or if the
// name is of another model than `model`, which may be empty; Error(weights) if a folder is no
// run's.
NamedWeights find_weights(const std::filesystem::path& weights, const std::string& model);

// The entry whose file find_weights() would have to fetch; nothing where none is.
std::optional<ManifestEntry> still_to_fetch(const std::filesystem::path& weights,
                                            const std::string& model);

}  // namespace engine
