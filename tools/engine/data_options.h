// Which images a run uses and how it gets at them: the flags of data sets, and the choice among the
// kinds of cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "io/dataset.h"
#include "io/loader.h"
#include "io/pack.h"
#include "tools/engine/options.h"

namespace engine {

// Where decoded and resized images wait for the epochs.
enum class CacheKind { none, disk, ram, gpu, automatic };
inline constexpr Choice<CacheKind> kCacheKinds[] = {{"auto", CacheKind::automatic},
                                                    {"none", CacheKind::none},
                                                    {"disk", CacheKind::disk},
                                                    {"ram", CacheKind::ram},
                                                    {"gpu", CacheKind::gpu}};
inline constexpr Choice<OnBadImage> kBadImagePolicies[] = {{"error", OnBadImage::error},
                                                           {"skip", OnBadImage::skip}};
std::string_view to_string(CacheKind kind);

struct DataOptions {
  std::filesystem::path data;
  OnBadImage on_bad_image = OnBadImage::error;
  CacheKind cache = CacheKind::automatic;
  std::filesystem::path cache_dir;
  std::optional<std::string> cache_size;

  void visit_data(auto& v) {
    v.group("Data");
    v("--data DIR", data, "train/CLASS/… and val/CLASS/…, or MNIST's idx files", kRequired);
    v("--on-bad-image WHAT", on_bad_image, "error: stop; skip: take another one, and name it",
      kBadImagePolicies);
    v("--cache KIND", cache,
      "images decoded and resized once, kept in: a file (disk), ram, gpu; auto: the fastest that "
      "fits",
      kCacheKinds);
    v("--cache-dir DIR", cache_dir,
      "of the files of --cache disk (default: $ENGINE_CACHE_DIR, else ~/.cache/engine)");
    v("--cache-size N|HxW|full", cache_size,
      "shorter side, or both, in the cache; full: not resized (default: as the recipe resizes)");
  }
};

// The data sets of a training run.
TrainingData load_training_data(const DataOptions& options);

// What the cache may use, and what it must know of the run.
struct CacheLimits {
  int threads = 1;
  uint64_t device_bytes = 0;            // free on each device beside the run's own; 0: no gpu cache
  std::string no_gpu = "not on a GPU";  // why there is none, if there is none
  bool reused = true;                   // the run reads images more than once
  std::function<bool()> stop;           // polled; ends the making of a cache with Error(preempted)
};

// The cache in use: for the run directory and the checkpoint.
struct Cache {
  CacheKind kind = CacheKind::none;  // never automatic
  std::string reason;                // of the choice, for people
  PackSpec spec;                     // of what is in it, unless none
  uint64_t bytes = 0, images = 0;
  std::filesystem::path file;  // of disk
};
nlohmann::ordered_json to_json(const Cache& cache);

// Chooses the kind, says which and why, makes or opens the pack and attaches it to all the data
// sets; with CacheKind::gpu the pack is in memory and the caller takes it to the devices. `before` is the kind
// that the run to resume used: it is kept, or what is used instead is said.
Cache open_cache(TrainingData& data, const DataOptions& options, const Preprocess& preprocess,
                 const CacheLimits& limits, std::optional<CacheKind> before = std::nullopt);

// Bytes this process may still allocate: MemAvailable, or what its control group leaves.
uint64_t available_memory();

}  // namespace engine
