// The list of usual weight files (weights/manifest.json), and the check of a file against it.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace engine {

struct ManifestEntry {
  std::vector<std::string> names;  // file names, today's first
  std::string model, licence, source;
  std::string sha256;      // first digits or all of them; empty if not published
  int64_t tensors = 0;     // with batch counters, which some files leave out
  int64_t counters = 0;    // batch counters among them
  int64_t parameters = 0;  // trained values
  std::string layout;      // layout_digest() of the model with 1000 classes
};

std::vector<ManifestEntry> read_manifest(const std::filesystem::path& path);

// SHA-256 over one line "name [shape]" for each tensor but the batch counters, sorted by name.
std::string layout_digest(const TensorFile& file);

struct WeightReport {
  std::string sha256;
  int64_t tensors = 0, parameters = 0;
  std::optional<ManifestEntry> entry;  // the one with the file's name
  std::vector<std::string> problems;   // one line each; empty: as the manifest says
};

// Reads the whole file (an Error if it cannot be read) and compares it with its entry, if any.
WeightReport verify_weights(const std::filesystem::path& path,
                            std::span<const ManifestEntry> manifest);

}  // namespace engine
