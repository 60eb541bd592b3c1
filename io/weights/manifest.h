// The list of the usual weight files (weights/manifest.json), and the check of a file against it.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensor.h"

namespace engine {

struct ManifestEntry {
  std::vector<std::string> names;  // file names; the one of today comes first
  std::string model, licence, source;
  std::string sha256;  // its first digits or all of them; empty if it is not published
  double mib = 0;      // its size as published, 2^20 bytes; 0 if it is not
  double top1 = 0;     // its published accuracy on ImageNet in percent; 0 if there is none
  // How pictures are prepared for it, JSON as in the metadata of checkpoints; empty: as by default
  // for the model.
  std::string preprocess;
  int64_t tensors = 0;     // with batch counters, which some files leave out
  int64_t counters = 0;    // batch counters among them
  int64_t parameters = 0;  // trained values
  std::string layout;      // layout_digest() of the model with 1000 classes
};

// Error(weights) if the file cannot be read or is malformed.
std::vector<ManifestEntry> read_manifest(const std::filesystem::path& path);

// The entry that a name means: a file name, with or without its ending and the digits of its
// checksum; or "imagenet" or the model's own name, the first that is listed for `model`. Nothing if
// there is none.
const ManifestEntry* find_entry(std::span<const ManifestEntry> manifest, std::string_view name,
                                std::string_view model);

// The SHA-256 of one line "name [shape]" for each tensor but the batch counters, sorted by name.
std::string layout_digest(const TensorFile& file);

struct WeightReport {
  std::string sha256;
  int64_t tensors = 0, parameters = 0;
  std::optional<ManifestEntry> entry;  // the entry with the file's name
  std::vector<std::string> problems;   // one line each; none if the file is as the manifest says
};

// Reads the whole file (an Error(weights) if it cannot be read) and compares it with its entry, if
// it has one.
WeightReport verify_weights(const std::filesystem::path& path,
                            std::span<const ManifestEntry> manifest);

}  // namespace engine
