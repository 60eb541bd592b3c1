// Published weight files, fetched once, verified and kept in a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "io/weights/manifest.h"

namespace engine {

struct FetchOptions {
  std::function<void(const std::string& line)> say;
  std::function<void(int64_t done, int64_t whole)> progress;  // in bytes; whole may be 0
  std::function<bool()> stop;                                 // says whether to give up
};

// Where the file of an entry lies in a folder, whether it is there or not.
std::filesystem::path place_of(const ManifestEntry& entry, const std::filesystem::path& folder);

// Whether the file is there and has the checksum of its entry, as far as that is published.
bool is_as_published(const std::filesystem::path& file, const ManifestEntry& entry);

// The file of an entry in `folder`: as it lies there, else fetched beside it ("NAME.part", after
// whose bytes a later call goes on), compared with the published SHA-256, and renamed. One process
// fetches, under a lock; others wait for it. A file with another checksum is deleted, which is
// said. Error(network) names the address and where to put the file by hand; Error(weights) where
// the server's file is another, Error(data) where the folder cannot be written.
std::filesystem::path fetch_weights(const ManifestEntry& entry, const std::filesystem::path& folder,
                                    const FetchOptions& options = {});

}  // namespace engine
