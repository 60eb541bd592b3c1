// How a run gets at its images: the flags of data sets with those of the cache, and the choice
// among the kinds of cache.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "io/data/dataset.h"
#include "io/data/loader.h"
#include "io/data/pack.h"
#include "tools/cli/options.h"
#include "tools/data/image_sets.h"

namespace engine {

// Where decoded and resized images wait for the epochs.
enum class CacheKind { none, disk, ram, gpu, automatic };
inline constexpr Choice<CacheKind> kCacheKinds[] = {{"auto", CacheKind::automatic},
                                                    {"none", CacheKind::none},
                                                    {"disk", CacheKind::disk},
                                                    {"ram", CacheKind::ram},
                                                    {"gpu", CacheKind::gpu}};
inline std::string_view to_string(CacheKind kind) {
  return std::ranges::find(kCacheKinds, kind, &Choice<CacheKind>::value)->name;
}

struct DataOptions : ImageSetOptions {
  CacheKind cache = CacheKind::automatic;
  std::filesystem::path cache_dir;
  std::optional<std::string> cache_size;

  void visit_data(auto& v) {
    v.group("Data");
    v("--data DIR", data,
      "train/CLASS/…, val/CLASS/… and perhaps test/CLASS/…; with --split CLASS/…; or MNIST's idx "
      "files",
      kMayChange);
    visit_image_sets(v);
    v("--cache KIND", cache,
      "images decoded and resized once, kept in: a file (disk), ram, gpu; auto: the fastest that "
      "fits",
      kCacheKinds, kMayChange);
    v("--cache-dir DIR", cache_dir,
      "of the files of --cache disk (default: $ENGINE_CACHE_DIR, else ~/.cache/engine)",
      kMayChange);
    v("--cache-size N|HxW|full", cache_size,
      "shorter side, or both, in the cache; full: not resized (default: as the recipe resizes)");
  }
};

// Why something cannot be had.
struct Obstacle {
  std::string why;
};

// What the cache may use, and what it must know of the run.
struct CacheLimits {
  int threads = 1;
  // What is free on each device beside the run's own, or why images cannot be kept there.
  std::variant<uint64_t, Obstacle> device_bytes = Obstacle{"not on a GPU"};
  bool reused = true;          // the run reads images more than once
  std::function<bool()> stop;  // polled; ends the making of a cache with Error(preempted)
};

// The cache in use: for the run directory and the checkpoint.
struct Cache {
  CacheKind kind = CacheKind::none;  // never automatic
  std::string reason;                // why it was chosen, for people
  PackSpec spec;                     // of the pack, unless there is none
  uint64_t bytes = 0, images = 0;
  std::filesystem::path file;  // of disk
};
nlohmann::ordered_json to_json(const Cache& cache);

// Chooses the kind, says which and why, makes or opens the pack and attaches it to all the data
// sets. With CacheKind::gpu the pack is in memory, and the caller takes it to the devices. `before`
// is the kind that the run to resume used: it is kept, or what is used instead is said.
Cache open_cache(TrainingData& data, const DataOptions& options, const Preprocess& preprocess,
                 const CacheLimits& limits, std::optional<CacheKind> before = std::nullopt);
Cache open_cache(std::span<Dataset* const> sets, const DataOptions& options,
                 const Preprocess& preprocess, const CacheLimits& limits,
                 std::optional<CacheKind> before = std::nullopt);

// What is to be said of the pictures in the pack of a data set that were found damaged; empty if
// none were.
std::string damage_of(const Dataset& data);

// SHA-256 that tell whether images have changed: of the files' sizes, and of their contents where a
// pack knows them (else empty).
struct ImageDigests {
  std::string sizes, contents;

  bool operator==(const ImageDigests&) const = default;
};
ImageDigests image_digests(const TrainingData& data);

// Bytes this process may still allocate: MemAvailable, or what its control group leaves.
uint64_t available_memory();

}  // namespace engine
