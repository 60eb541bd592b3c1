#include "tools/data/data_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/error.h"
#include "io/data/source_file.h"
#include "io/files/cache_folder.h"
#include "io/files/checksum.h"
#include "tools/cli/progress.h"
#include "tools/cli/terminal.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

std::string size_text(uint64_t bytes) {
  constexpr double kMiB = 1 << 20;
  if (bytes < kMiB) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
  const double mib = static_cast<double>(bytes) / kMiB;
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

// One file for each data set and spec, whatever its splits and labels.
fs::path cache_file(const DataOptions& options, const PackSpec& spec) {
  std::error_code error;
  const fs::path root = fs::weakly_canonical(options.root(), error);
  const std::string key = fmt::format("{}\n{}", root.string(), describe(spec));
  const std::string name = root.filename().empty() ? "data" : root.filename().string();
  return (options.cache_dir.empty() ? cache_folder() : fs::path(options.cache_dir)) /
         fmt::format("{}-{:016x}.pack", name, xxh64(std::as_bytes(std::span(key))));
}

PackSpec cache_spec(const DataOptions& options, const Preprocess& preprocess) {
  if (!options.cache_size) return pack_spec(preprocess);
  Preprocess sized = preprocess;
  if (*options.cache_size == "full")
    sized.resize_height = sized.resize_width = 0;
  else
    set_resize(sized, *options.cache_size, "--cache-size");
  return pack_spec(sized);
}

uint64_t number_in(const fs::path& file) {
  std::ifstream in(file);
  uint64_t value = 0;
  return in >> value ? value : UINT64_MAX;  // "max", or no such file
}

// What this process's control group may still take; page cache counts as free.
uint64_t control_group_memory() {
  uint64_t least = UINT64_MAX;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::string path = line.substr(line.rfind(':') + 1);
    const bool unified = line.starts_with("0::");
    if (!unified && line.find(":memory:") == std::string::npos) continue;
    const fs::path root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (const fs::path& folder : {root / fs::path(path).relative_path(), root}) {
      const uint64_t most = number_in(folder / (unified ? "memory.max" : "memory.limit_in_bytes"));
      const uint64_t used =
          number_in(folder / (unified ? "memory.current" : "memory.usage_in_bytes"));
      if (most == UINT64_MAX || used == UINT64_MAX) continue;
      uint64_t file_pages = 0;
      std::ifstream stat(folder / "memory.stat");
      for (std::string name; stat >> name;) {
        uint64_t value = 0;
        stat >> value;
        if (name == "inactive_file") file_pages = value;
      }
      least = std::min(least, most - std::min(most, used - std::min(used, file_pages)));
    }
  }
  return least;
}

struct Candidate {
  CacheKind kind;
  std::string no;   // why not, empty if it fits
  std::string yes;  // "0.7 GiB of 20.1 GiB free"
  Failure failure = Failure::memory;
};

Candidate in_ram(uint64_t bytes) {
  constexpr double kShare = 0.7;  // the rest is for batches, weights and the page cache
  const uint64_t free = available_memory();
  const std::string text = fmt::format("{} of {} free memory", size_text(bytes), size_text(free));
  if (static_cast<double>(bytes) <= kShare * static_cast<double>(free))
    return {CacheKind::ram, "", text};
  return {CacheKind::ram, text + fmt::format(", at most {:.0f}%", 100 * kShare), ""};
}

Candidate on_gpu(uint64_t bytes, const CacheLimits& limits) {
  if (const auto* obstacle = std::get_if<Obstacle>(&limits.device_bytes))
    return {CacheKind::gpu, obstacle->why, "", Failure::usage};
  const auto free = std::get<uint64_t>(limits.device_bytes);
  const std::string text =
      fmt::format("{} of {} free device memory", size_text(bytes), size_text(free));
  if (bytes > free) return {CacheKind::gpu, text, ""};
  if (const Candidate host = in_ram(bytes); !host.no.empty())
    return {CacheKind::gpu, host.no + " on the way there", ""};
  return {CacheKind::gpu, "", text};
}

Candidate on_disk(uint64_t bytes, const fs::path& file) {
  constexpr double kShare = 0.8;
  if (fs::exists(file)) return {CacheKind::disk, "", file.string() + " is there"};
  fs::path folder = fs::absolute(file).parent_path();
  while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error) return {CacheKind::disk, folder.string() + ": " + error.message(), ""};
  const std::string text = fmt::format("{} of {} free in {}", size_text(bytes),
                                       size_text(space.available), folder.string());
  if (static_cast<double>(bytes) <= kShare * static_cast<double>(space.available))
    return {CacheKind::disk, "", text};
  return {CacheKind::disk, text, ""};
}

// The kind that is used, with the reason in `why`.
CacheKind choose(const DataOptions& options, const CacheLimits& limits, uint64_t bytes,
                 const fs::path& file, bool in_memory, std::optional<CacheKind> before,
                 std::string& why) {
  const CacheKind asked = options.cache == CacheKind::automatic && before ? *before : options.cache;
  const bool as_before = before && asked == *before;
  if (asked == CacheKind::none) return why = as_before ? "as before" : "as asked", asked;
  if (asked == CacheKind::automatic && !limits.reused)
    return why = "each image is read once", CacheKind::none;
  const std::array<Candidate, 3> candidates = {on_gpu(bytes, limits), in_ram(bytes),
                                               on_disk(bytes, file)};
  for (const Candidate& c : candidates) {
    if (c.kind != asked) continue;
    if (c.no.empty()) return why = c.yes + (as_before ? ", as before" : ""), asked;
    require(as_before && options.cache == CacheKind::automatic, c.failure, "--cache {}: {}",
            to_string(asked), c.no);
    why = fmt::format("the run used {}, but {}; ", to_string(asked), c.no);
  }
  for (const Candidate& c : candidates) {
    if (in_memory && c.kind != CacheKind::gpu)
      return why += "the images are in memory as they are", CacheKind::none;
    if (c.no.empty()) return why += c.yes, c.kind;
    if (c.kind != asked) why += fmt::format("not {}: {}; ", to_string(c.kind), c.no);
  }
  return why += "nothing fits", CacheKind::none;
}

}  // namespace

ImageDigests image_digests(const TrainingData& data) {
  Sha256 sizes, contents;
  bool known = true;
  const auto add = [](Sha256& hash, uint64_t value) {
    hash.update(std::as_bytes(std::span(&value, 1)));
  };
  for (const Dataset* part : {&data.train, &data.validation, data.test ? &*data.test : nullptr}) {
    if (!part) continue;
    const Dataset& set = *part;
    known = known && set.pack;
    for (size_t i = 0; i < set.samples.size(); ++i) {
      if (set.pack) {  // which was compared with the files when it was opened
        const Pack::Record& record = set.pack->record(set.records[i]);
        add(sizes, record.size);
        add(contents, record.content);
      } else {
        const Image* image = set.images.empty() ? nullptr : &set.images[i];
        add(sizes, source_file({set.samples[i].path, image}).size);
      }
    }
  }
  return {.sizes = sizes.finish(), .contents = known ? contents.finish() : ""};
}

std::string damage_of(const Dataset& data) {
  const std::vector<size_t> damaged = data.pack ? data.pack->damaged() : std::vector<size_t>();
  if (damaged.empty()) return {};
  return fmt::format(
      "{}: of {} pictures {} are damaged (checksum), the first {}: their images are read instead; "
      "the "
      "file is removed, and the next run makes it anew",
      data.pack->file().string(), data.pack->size(), damaged.size(), data.pack->path(damaged[0]));
}

uint64_t available_memory() {
  std::ifstream in("/proc/meminfo");
  uint64_t free = UINT64_MAX;
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("MemAvailable:")) std::istringstream(line.substr(13)) >> free, free <<= 10;
  return std::min(free, control_group_memory());
}

nlohmann::ordered_json to_json(const Cache& cache) {
  nlohmann::ordered_json json = {{"kind", to_string(cache.kind)}, {"reason", cache.reason}};
  if (cache.kind == CacheKind::none) return json;
  json["images"] = cache.images;
  json["bytes"] = cache.bytes;
  json["contents"] = describe(cache.spec);
  if (!cache.file.empty()) json["file"] = cache.file.string();
  return json;
}

Cache open_cache(TrainingData& data, const DataOptions& options, const Preprocess& preprocess,
                 const CacheLimits& limits, std::optional<CacheKind> before) {
  std::vector<Dataset*> sets = {&data.train, &data.validation};
  if (data.test) sets.push_back(&*data.test);
  return open_cache(sets, options, preprocess, limits, before);
}

Cache open_cache(std::span<Dataset* const> sets, const DataOptions& options,
                 const Preprocess& preprocess, const CacheLimits& limits,
                 std::optional<CacheKind> before) {
  const std::vector<const Dataset*> views(sets.begin(), sets.end());
  const std::vector<PackSource> sources = pack_sources(views);
  Cache cache{.spec = cache_spec(options, preprocess), .images = sources.size()};
  const fs::path file = cache_file(options, cache.spec);
  const bool sized = options.cache != CacheKind::none &&
                     (limits.reused || before || options.cache != CacheKind::automatic);
  const ParallelOptions estimating{.threads = limits.threads, .stop = limits.stop};
  cache.kind = choose(options, limits, sized ? estimate_pack(sources, cache.spec, estimating) : 0,
                      file, !sets[0]->images.empty(), before, cache.reason);
  if (before && options.cache != CacheKind::automatic && options.cache != *before)
    cache.reason += fmt::format("; the run used {} until now", to_string(*before));
  say(fmt::format("cache {}: {}", to_string(cache.kind), cache.reason));
  if (cache.kind == CacheKind::none) return cache;

  std::optional<Progress> progress;
  const auto show = [&](size_t done, size_t all) {
    if (!progress) progress.emplace("cache", static_cast<int64_t>(all));
    progress->step(1, 0);
    if (done == all) progress->finish();
  };
  const PackOptions packing{
      .parallel = {.threads = limits.threads, .stop = limits.stop, .progress = show},
      .allow_unreadable = options.on_bad_image == OnBadImage::skip,
      .say = [&](std::string_view line) {
        say(line);
        cache.reason += fmt::format("; {}", line);  // for the run directory
      }};
  const bool on_disk = cache.kind == CacheKind::disk;
  const auto pack = on_disk ? open_or_build_pack(file, sources, cache.spec, packing)
                            : build_pack(sources, cache.spec, packing);
  cache.bytes = pack->pixels().size();
  if (on_disk) cache.file = file;
  attach_pack(pack, sets);
  return cache;
}

}  // namespace engine
