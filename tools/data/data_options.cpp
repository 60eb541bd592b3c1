#include "tools/data/data_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/error.h"
#include "io/data/duplicates.h"
#include "io/data/idx.h"
#include "io/data/source_file.h"
#include "io/files/atomic_file.h"
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

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path cache_folder(const DataOptions& options) {
  if (!options.cache_dir.empty()) return options.cache_dir;
  if (const std::string own = environment("ENGINE_CACHE_DIR"); !own.empty()) return own;
  if (const std::string xdg = environment("XDG_CACHE_HOME"); !xdg.empty())
    return fs::path(xdg) / "engine";
  const std::string home = environment("HOME");
  return (home.empty() ? fs::temp_directory_path() : fs::path(home) / ".cache") / "engine";
}

// One file for each data set and spec, whatever its splits and labels.
fs::path cache_file(const DataOptions& options, const PackSpec& spec) {
  std::error_code error;
  const fs::path root = fs::weakly_canonical(options.root(), error);
  const std::string key = fmt::format("{}\n{}", root.string(), describe(spec));
  const std::string name = root.filename().empty() ? "data" : root.filename().string();
  return cache_folder(options) /
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

void check_data_flags(const DataOptions& o) {
  const auto given = [](const auto& value) { return !value.empty(); };
  require(given(o.data) || given(o.labels), Failure::usage,
          "--data is missing: a folder of images, or --labels FILE");
  require(given(o.labels) + given(o.split_file) < 2, Failure::usage,
          "--labels and --split-file are both files of labels; give one");
  require(!given(o.split_file) || (given(o.data) && !given(o.split)), Failure::usage,
          "--split-file goes with --data, and without --split");
  require(given(o.split) || !o.stratify, Failure::usage, "--stratify is for --split");
}

fs::path label_file(const DataOptions& o) {
  return o.labels.empty() ? o.split_file : o.labels;
}

std::vector<Part> choose_parts(const DataOptions& o, const Dataset& all) {
  return sample_split(all, parse_shares(o.split), o.stratify, o.split_seed);
}

// Reads --labels or --split-file; the parts are the file's or those that --split chooses.
Labels load_labels(const DataOptions& o, std::span<const std::string> classes = {}) {
  if (o.labels.empty()) return read_labels(o.split_file, o.data, o.class_order, classes);
  Labels labels = read_labels(o.labels, o.labels.parent_path(), o.class_order, classes);
  say(fmt::format("{}: {} images, {} of {} classes", o.labels.string(), labels.lines.size(),
                  to_string(labels.kind), labels.all.classes.size()));
  if (o.split.empty()) return labels;
  require(labels.parts.empty(), Failure::usage,
          "--labels {}: it has a column split, which --split contradicts", o.labels.string());
  labels.parts = choose_parts(o, labels.all);
  return labels;
}

// Throws Error(usage) where `folder` is nothing that --split can split.
void check_not_split(const fs::path& folder) {
  require(!has_idx_files(folder), Failure::usage, "--split is for folders, {} has idx files",
          folder.string());
  require(!fs::is_directory(folder / "train"), Failure::usage,
          "--split: {0} is split already; --data {0}/train splits its training images",
          folder.string());
}

Dataset read_folder(const fs::path& folder, ClassOrder order,
                    const std::vector<std::string>& classes) {
  return classes.empty() ? read_image_folder(folder, order) : read_image_folder(folder, classes);
}

// The images of `part`, and those to train with.
EvaluationData take_part(Dataset all, std::span<const Part> parts, Part part,
                         const fs::path& source) {
  auto sets = by_part(std::move(all), parts);
  EvaluationData data{.images = std::move(sets[static_cast<size_t>(part)]), .part = part};
  require(!data.images.samples.empty(), Failure::data, "{}: none of {} images is in the part {}",
          source.string(), parts.size(), to_string(part));
  if (part != Part::train && !sets[0].samples.empty()) data.train = std::move(sets[0]);
  return data;
}

EvaluationData read_idx_part(const fs::path& folder, Part part,
                             const std::vector<std::string>& classes) {
  require(part != Part::test, Failure::usage,
          "--part test: {} has idx files: their test images are the part val", folder.string());
  if (part == Part::validation && !classes.empty())
    return {.images = read_idx_validation(folder, classes), .part = part};
  TrainingData all = read_idx_folder(folder);
  require(classes.empty() || classes == all.train.classes, Failure::data,
          "{}: its classes are {}, those of the weights {}", folder.string(),
          fmt::join(all.train.classes, " "), fmt::join(classes, " "));
  return {.images = std::move(part == Part::train ? all.train : all.validation), .part = part};
}

EvaluationData read_folder_part(const DataOptions& o, std::optional<Part> wanted,
                                const std::vector<std::string>& classes) {
  const std::optional<fs::path> validation = validation_folder(o.data);
  if (!wanted && !validation && !fs::is_directory(o.data / "train"))
    return {.images = read_folder(o.data, o.class_order, classes)};
  const Part part = wanted.value_or(Part::validation);
  const fs::path folder =
      part == Part::validation ? validation.value_or(o.data / "val") : o.data / to_string(part);
  EvaluationData data{.images = read_folder(folder, o.class_order, classes), .part = part};
  const fs::path train = o.data / "train";
  if (part != Part::train && !o.no_duplicate_check && fs::is_directory(train))
    data.train = read_image_folder(train, class_folders(train));
  return data;
}

}  // namespace

TrainingData load_training_data(const DataOptions& o) {
  check_data_flags(o);
  if (const fs::path file = label_file(o); !file.empty()) {
    Labels labels = load_labels(o);
    require(!labels.parts.empty(), Failure::usage, "{}: it has no column split; --split draws one",
            file.string());
    return o.split.empty() ? training_data(std::move(labels), file)
                           : apply_split(std::move(labels.all), labels.parts);
  }
  if (o.split.empty()) return read_training_data(o.data, o.class_order);
  check_not_split(o.data);
  Dataset all = read_image_folder(o.data, o.class_order);
  const std::vector<Part> parts = choose_parts(o, all);
  return apply_split(std::move(all), parts);
}

EvaluationData load_evaluation_data(const DataOptions& o, std::optional<Part> wanted,
                                    const std::vector<std::string>& classes) {
  check_data_flags(o);
  const Part part = wanted.value_or(Part::validation);
  if (const fs::path file = label_file(o); !file.empty()) {
    Labels labels = load_labels(o, classes);
    if (!labels.parts.empty()) return take_part(std::move(labels.all), labels.parts, part, file);
    require(!wanted, Failure::usage, "--part {}: {} has no column split", to_string(part),
            file.string());
    return {.images = std::move(labels.all)};
  }
  if (!o.split.empty()) {
    check_not_split(o.data);
    Dataset all = read_folder(o.data, o.class_order, classes);
    const std::vector<Part> parts = choose_parts(o, all);
    return take_part(std::move(all), parts, part, o.data);
  }
  return has_idx_files(o.data) ? read_idx_part(o.data, part, classes)
                               : read_folder_part(o, wanted, classes);
}

ImageDigests image_digests(const TrainingData& data) {
  Sha256 sizes, contents;
  bool known = true;
  const auto add = [](Sha256& hash, uint64_t value) {
    hash.update(std::as_bytes(std::span(&value, 1)));
  };
  for (const NamedSet& part : parts_of(data)) {
    const Dataset& set = *part.data;
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

std::vector<NamedSet> parts_of(const TrainingData& data) {
  std::vector<NamedSet> parts = {{"train", &data.train}, {"val", &data.validation}};
  if (data.test) parts.push_back({"test", &*data.test});
  return parts;
}

size_t report_duplicates(std::span<const NamedSet> parts, const DataOptions& options,
                         const ParallelOptions& parallel, const fs::path& folder) {
  if (options.no_duplicate_check) return 0;
  std::vector<const Dataset*> sets;
  std::vector<std::string> names;
  for (const NamedSet& part : parts) sets.push_back(part.data), names.push_back(part.name);
  const auto found = find_duplicates(sets, true, parallel);
  if (found.empty()) return 0;
  const Copy &first = found[0].front(), &last = found[0].back();
  std::string text =
      fmt::format("{} in several parts, the first in {} as {} and in {} as {}",
                  found.size() == 1 ? "1 image is" : fmt::format("{} images are", found.size()),
                  names[first.set], sets[first.set]->samples[first.sample].path, names[last.set],
                  sets[last.set]->samples[last.sample].path);
  if (!folder.empty()) {
    const fs::path file = folder / "duplicates.csv";
    write_file_atomically(file, duplicates_csv(found, sets, names));
    text += fmt::format("; all of them are in {}", file.string());
  }
  say(paint(text, Colour::yellow, stderr));
  return found.size();
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
  cache.kind = choose(options, limits, sized ? estimate_pack(sources, cache.spec) : 0, file,
                      !sets[0]->images.empty(), before, cache.reason);
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
