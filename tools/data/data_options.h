// Which images a run uses and how it gets at them: the flags of data sets, and the choice among the
// kinds of cache.
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
#include "io/data/split.h"
#include "tools/cli/options.h"

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
inline std::string_view to_string(CacheKind kind) {
  return std::ranges::find(kCacheKinds, kind, &Choice<CacheKind>::value)->name;
}

inline constexpr Choice<ClassOrder> kClassOrders[] = {{"bytes", ClassOrder::bytes},
                                                      {"natural", ClassOrder::natural}};

struct DataOptions {
  std::filesystem::path data, labels, split_file;
  std::string split;
  bool stratify = false, no_duplicate_check = false;
  uint64_t split_seed = 0;
  ClassOrder class_order = ClassOrder::bytes;
  OnBadImage on_bad_image = OnBadImage::error;
  CacheKind cache = CacheKind::automatic;
  std::filesystem::path cache_dir;
  std::optional<std::string> cache_size;

  void visit_data(auto& v) {
    v.group("Data");
    v("--data DIR", data,
      "train/CLASS/…, val/CLASS/… and perhaps test/CLASS/…; with --split CLASS/…; or MNIST's idx "
      "files",
      kMayChange);
    v("--labels FILE", labels,
      "CSV: path (relative to the file), label (names, or indices throughout) and perhaps split");
    v("--split A/B/C", split,
      "choose training, validation and test images at random, in shares like 0.63/0.07/0.30");
    v("--stratify", stratify, "each class in those shares");
    v("--split-seed N", split_seed, "of the random choice");
    v("--split-file FILE", split_file, "split.csv of a former run, paths relative to --data");
    v("--class-order ORDER", class_order,
      "bytes: torchvision's; natural: numbers by value, case ignored, as timm's", kClassOrders);
    v("--no-duplicate-check", no_duplicate_check,
      "do not look for images that several parts share");
    v("--on-bad-image WHAT", on_bad_image, "error: stop; skip: take another one, and name it",
      kBadImagePolicies);
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

  bool splits() const { return !(split.empty() && split_file.empty() && labels.empty()); }
  // The folder at which relative paths of images begin.
  std::filesystem::path root() const { return data.empty() ? labels.parent_path() : data; }
};

// The data sets of a training run. Error(usage) for flags that contradict each other.
TrainingData load_training_data(const DataOptions& options);

inline constexpr Choice<Part> kPartNames[] = {
    {"train", Part::train}, {"val", Part::validation}, {"test", Part::test}};

// One part of what the same flags would train with. The images to train with stand beside it where
// they are known and may be compared (--no-duplicate-check).
struct EvaluationData {
  Dataset images;
  std::optional<Part> part = {};  // nothing: all images there are
  std::optional<Dataset> train = {};
};

// The images of `part`, by default the validation images; of folders without parts and of labels
// without the column split, all images. Labels are positions in `classes`, those of a weight file;
// if these are empty, the classes are the data's own.
EvaluationData load_evaluation_data(const DataOptions& options, std::optional<Part> part,
                                    const std::vector<std::string>& classes);

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

struct NamedSet {
  std::string name;
  const Dataset* data = nullptr;
};
std::vector<NamedSet> parts_of(const TrainingData& data);

// Looks for images with the same bytes in several parts. Says how many there are, names them in
// duplicates.csv in `folder` if that is not empty, and returns their number. This is cheap once a
// pack is attached, which knows the hashes.
size_t report_duplicates(std::span<const NamedSet> parts, const DataOptions& options,
                         const ParallelOptions& parallel, const std::filesystem::path& folder);

// Bytes this process may still allocate: MemAvailable, or what its control group leaves.
uint64_t available_memory();

}  // namespace engine
