// engine bench data: how many images per second come from files to batches, step by step and for
// every cache and number of threads, against what the model needs.
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/error.h"
#include "io/data/sample.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "io/images/decode.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/gaps.h"
#include "tools/bench/step.h"
#include "tools/cli/terminal.h"
#include "tools/data/augment_options.h"
#include "tools/data/data_options.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/verbs.h"
#include "tools/machine/cores.h"

namespace engine {
namespace {

struct BenchDataOptions : DataOptions, DeviceOptions, PreprocessOptions, AugmentOptions {
  std::string model = "efficientnet_b3", counts, caches = "none,disk,ram";
  int image_size = 0, batch = 64, images = 256, loaders = 4, passes = 5;
  double seconds = 1, need = 0;
  bool fast_decode = false, measure_need = false, steps_only = false, gaps = false, json = false;
  std::filesystem::path out;

  void visit(auto& v) {
    visit_data(v);
    v("--fast-decode", fast_decode, "decode large JPEGs at reduced size");
    v.group("Measurement");
    v("--steps-only", steps_only, "one thread, step by step; no loaders");
    v("--images N", images, "of the data set, for the steps", Within{1, 100'000});
    v("--passes N", passes, "over these images, of which the fastest counts", Within{1, 1000});
    v("--seconds X", seconds, "for each loader", Within{0.05, 600});
    v("--caches LIST", caches, "which kinds, of none, disk and ram");
    v("--counts LIST", counts, "numbers of loading threads (default: 1, 2, 4, … to all cores)");
    v("--loaders N", loaders, "GPUs to serve, where strategies are compared", Within{1, 64});
    v("-b, --batch-size N", batch, "images per batch", Within{1, 65536});
    v("--out FILE", out, "CSV, for tools/plots/bench_data.py");
    v("--gaps", gaps, "also what stands between a loader of files on all cores and its steps");
    v("--json", json, "one JSON object to stdout instead of the table");
    v.group("Need");
    v("--need X", need, "images per second that the model computes (0: not known)", Within{0, 1e9});
    v("--measure-need", measure_need, "measure it here, with --model on --device");
    v("--model NAME", model, "gives the default preprocessing");
    v("--image-size N", image_size, "side of the input; the resize scales with it (0: the model's)",
      Within{0, 4096});
    visit_augment(v);
    visit_preprocess(v);
    visit_device(v);
    visit_ranks(v);
  }
};

struct LoadRow {
  std::string group, what, cache;  // "step" | "loader" | "strategy"; what was measured
  int threads = 1;
  double total = 0, per_core = 0;  // images per second; per second of CPU time
};

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// The fastest of several passes of this thread; a pass is every image once. What other programs do
// on this machine slows the wall clock but hardly CPU time.
LoadRow time_step(const BenchDataOptions& o, std::string what, size_t images,
                  const std::function<void(size_t)>& body) {
  LoadRow row{.group = "step", .what = std::move(what), .cache = "none"};
  for (int pass = 0; pass < o.passes; ++pass) {
    const double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    for (size_t i = 0; i < images; ++i) body(i);
    row.total = std::max(row.total, double(images) / (seconds_of(CLOCK_MONOTONIC) - wall));
    row.per_core =
        std::max(row.per_core, double(images) / (seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu));
  }
  return row;
}

RandomKey key_of(size_t position) {
  return {.position = static_cast<uint32_t>(position), .purpose = purpose("augment")};
}

std::vector<LoadRow> measure_steps(const BenchDataOptions& o, const Dataset& files,
                                   const Preprocess& preprocess, const AugmentConfig& augment) {
  require(files.images.empty(), Failure::usage,
          "--data {}: the images are no files; there is nothing to decode", o.data.string());
  const size_t images = std::min(files.samples.size(), size_t(o.images));
  std::vector<std::vector<std::byte>> bytes(images);
  std::vector<Image> decoded(images), resized(images);
  std::vector<LoadRow> rows;
  rows.push_back(time_step(o, "read", images,
                           [&](size_t i) { bytes[i] = read_image_bytes(files.samples[i].path); }));
  rows.push_back(time_step(o, "decode", images, [&](size_t i) {
    decoded[i] = decode(bytes[i], files.samples[i].path, preprocess.channels);
  }));
  rows.push_back(time_step(o, "resize", images,
                           [&](size_t i) { resized[i] = resize(decoded[i], preprocess); }));
  const std::vector<Stage> stages = train_stages(augment, preprocess);
  rows.push_back(time_step(o, "augment", images, [&](size_t i) {
    Image image = resized[i];
    Rng rng(key_of(i));
    for (const Stage& stage : stages) stage(image, rng);
  }));
  for (const bool fast : {false, true}) {
    const Prepare prepare = training_input(files, preprocess, augment, fast);
    rows.push_back(time_step(o, fast ? "file to crop, fast decode" : "file to crop", images,
                             [&](size_t i) { prepare(i, key_of(i)); }));
  }
  Dataset packed = files;
  packed.samples.resize(images);
  const Dataset* sets[] = {&packed};
  const auto sources = pack_sources(sets);
  packed.pack = build_pack(sources, pack_spec(preprocess), {});
  packed.records.clear();
  for (size_t i = 0; i < images; ++i) packed.records.push_back(static_cast<uint32_t>(i));
  const Prepare prepare = training_input(packed, preprocess, augment, false);
  rows.push_back(time_step(o, "pack to crop", images, [&](size_t i) { prepare(i, key_of(i)); }));
  rows.back().cache = "ram";
  return rows;
}

LoaderOptions loader_options(const BenchDataOptions& o, const Preprocess& preprocess, int threads,
                             Share share, int ahead) {
  return {.width = preprocess.crop,
          .height = preprocess.crop,
          .channels = preprocess.channels,
          .batch = o.batch,
          .share = share,
          .threads = threads,
          .ahead = ahead,
          .seed = 1,
          .on_bad_image = o.on_bad_image};
}

// Takes batches from each loader in turn, as ranks in step do, until time is up.
LoadRow measure_loaders(const BenchDataOptions& o, std::string group, std::string what,
                        std::vector<std::unique_ptr<Loader>>& loaders, int threads,
                        std::string_view cache) {
  LoadRow row{.group = std::move(group),
              .what = std::move(what),
              .cache = std::string(cache),
              .threads = threads};
  uint32_t epoch = 0;
  for (auto& loader : loaders) loader->start(epoch);
  const double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  int64_t images = 0;
  do {
    for (auto& loader : loaders) {
      const Batch* batch = loader->next();
      if (!batch) {
        loader->start(++epoch);
        batch = loader->next();
      }
      images += batch->count;
    }
  } while (seconds_of(CLOCK_MONOTONIC) - wall < o.seconds);
  row.total = double(images) / (seconds_of(CLOCK_MONOTONIC) - wall);
  row.per_core = double(images) / (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
  return row;
}

std::vector<LoadRow> measure_threads(const BenchDataOptions& o, const Dataset& data,
                                     const Preprocess& preprocess, const AugmentConfig& augment,
                                     std::span<const int> counts, CacheKind cache) {
  std::vector<LoadRow> rows;
  for (const int threads : counts) {
    std::vector<std::unique_ptr<Loader>> one;
    one.push_back(std::make_unique<Loader>(data,
                                           training_input(data, preprocess, augment, o.fast_decode),
                                           loader_options(o, preprocess, threads, {}, 3)));
    rows.push_back(measure_loaders(o, "loader", "epochs", one, threads, to_string(cache)));
  }
  return rows;
}

// The ways to feed several GPUs that the skin-disease study compares, from files.
std::vector<LoadRow> measure_strategies(const BenchDataOptions& o, const Dataset& data,
                                        const Preprocess& preprocess, const AugmentConfig& augment,
                                        int cores) {
  const Prepare prepare = training_input(data, preprocess, augment, o.fast_decode);
  struct Strategy {
    const char* name;
    int loaders, threads, ahead;  // threads and batches ahead of each loader
  };
  const int pool = std::max(1, cores / o.loaders);
  const Strategy strategies[] = {{"one thread", 1, 1, 1},
                                 {"one loader per GPU", o.loaders, 1, 1},
                                 {"manual split", o.loaders, pool, 1},
                                 {"our pool", 1, cores, 3}};
  std::vector<LoadRow> rows;
  for (const Strategy& s : strategies) {
    std::vector<std::unique_ptr<Loader>> loaders;
    for (int rank = 0; rank < s.loaders; ++rank)
      loaders.push_back(std::make_unique<Loader>(
          data, prepare,
          loader_options(o, preprocess, s.threads, {.rank = rank, .ranks = s.loaders}, s.ahead)));
    rows.push_back(measure_loaders(o, "strategy", s.name, loaders, s.loaders * s.threads, "none"));
  }
  return rows;
}

std::vector<int> thread_counts(const std::string& list, int cores) {
  std::set<int> counts;
  if (list.empty()) {
    for (int n = 1; n < cores; n *= 2) counts.insert(n);
    counts.insert(cores);
  }
  for (const char *at = list.data(), *end = at + list.size(); at < end;) {
    int n = 0;
    const auto [next, error] = std::from_chars(at, end, n);
    require(error == std::errc() && n >= 1 && n <= 1024 && (next == end || *next == ','),
            Failure::usage, "--counts '{}': numbers from 1 to 1024, with commas between them",
            list);
    counts.insert(n);
    at = next + 1;
  }
  return {counts.begin(), counts.end()};
}

std::vector<CacheKind> cache_kinds(const std::string& list) {
  std::vector<CacheKind> kinds;
  for (const CacheKind kind : {CacheKind::none, CacheKind::disk, CacheKind::ram})
    if ((',' + list + ',').find(fmt::format(",{},", to_string(kind))) != std::string::npos)
      kinds.push_back(kind);
  const size_t asked = size_t(std::count(list.begin(), list.end(), ',')) + 1;
  require(kinds.size() == asked, Failure::usage, "--caches '{}': of none, disk and ram, each once",
          list);
  return kinds;
}

std::string table(std::span<const LoadRow> rows) {
  std::string text = fmt::format("{:<10}{:<28}{:<7}{:>8}{:>12}{:>14}\n", "", "", "cache", "threads",
                                 "images/s", "images/s/core");
  for (const LoadRow& r : rows)
    text += fmt::format("{:<10}{:<28}{:<7}{:>8}{:>12.0f}{:>14.0f}\n", r.group, r.what, r.cache,
                        r.threads, r.total, r.per_core);
  return text;
}

// How many cores the model keeps busy, by the best rate per core of each cache: that of whole
// loaders, or of single steps where loaders were not measured.
std::string needed(std::span<const LoadRow> rows, double need, int cores) {
  std::string text;
  for (const CacheKind kind : {CacheKind::none, CacheKind::disk, CacheKind::ram}) {
    double loader = 0, step = 0;
    for (const LoadRow& r : rows) {
      if (r.cache != to_string(kind)) continue;
      if (r.group == "loader") loader = std::max(loader, r.per_core);
      if (r.what.ends_with("to crop")) step = std::max(step, r.per_core);
    }
    const double best = loader > 0 ? loader : step;
    if (best == 0) continue;
    const double count = std::ceil(need / best);
    text += fmt::format("{:.0f} images/s need {:.0f} core{} with cache {}; this process has {}\n",
                        need, count, count == 1 ? "" : "s", to_string(kind), cores);
  }
  return text;
}

// Images per second of whole training steps on data that are there already. A CPU takes seconds for
// what a GPU does in milliseconds, and varies less.
double measure_need(const BenchDataOptions& o, const Ranks& ranks, int image_size, int classes) {
  const bool gpu = ranks.kind == BackendKind::cuda;
  const StepTimes times = measure_step({.model = o.model,
                                        .batch = o.batch,
                                        .image_size = image_size,
                                        .classes = classes,
                                        .steps = gpu ? 50 : 5,
                                        .warmup = gpu ? 10 : 1,
                                        .conv = o.conv,
                                        .deterministic = o.deterministic,
                                        .workspace = size_t(o.workspace) << 20},
                                       ranks);
  say(fmt::format("{} trains {:.0f} images/s in {}, batch {} x {} on {}", o.model,
                  times.images_per_second, name_of(ranks.precision), o.batch, ranks.count(),
                  times.hardware));
  return times.images_per_second;
}

// Of files, not of a cache: the steps are those of one core, the loader has all of them.
LoaderRates loader_rates(const BenchDataOptions& o, std::span<const LoadRow> rows, double need,
                         int cores) {
  LoaderRates rates{.threads = cores, .need = need};
  for (const LoadRow& r : rows) {
    if (r.cache != to_string(CacheKind::none)) continue;
    if (r.group == "step" && !r.what.starts_with("file to crop"))
      rates.stages.push_back({r.what, r.per_core});
    if (r.what == (o.fast_decode ? "file to crop, fast decode" : "file to crop"))
      rates.one_thread = r.per_core;
    if (r.group == "loader" && r.threads == cores) rates.loader = std::max(rates.loader, r.total);
  }
  return rates;
}

std::string gaps_of(const BenchDataOptions& o, std::span<const LoadRow> rows, double need,
                    int cores, const Ranks& ranks, const Preprocess& preprocess) {
  LoaderRates rates = loader_rates(o, rows, need, cores);
  require(rates.loader > 0, Failure::usage,
          "--gaps: no loader of {} threads on files was measured; see --counts, --caches, "
          "--steps-only",
          cores);
  const size_t bytes = size_t(preprocess.crop) * preprocess.crop * preprocess.channels;
  const auto backend = make_backend(ranks.kind, ranks.options[0]);
  rates.upload = upload_bytes_per_s(*backend, bytes * o.batch) / double(bytes);
  return loader_text(rates);
}

std::string to_json(std::span<const LoadRow> rows, double need, int cores) {
  nlohmann::ordered_json json = {{"cores", cores}, {"need", need}, {"rows", {}}};
  for (const LoadRow& r : rows)
    json["rows"].push_back({{"group", r.group},
                            {"what", r.what},
                            {"cache", r.cache},
                            {"threads", r.threads},
                            {"images_per_second", r.total},
                            {"images_per_second_per_core", r.per_core}});
  return print_json(json) + '\n';
}

void write_csv(const std::filesystem::path& path, std::span<const LoadRow> rows, double need) {
  std::string text = "group,what,cache,threads,images_per_second,images_per_second_per_core,need\n";
  for (const LoadRow& r : rows)
    text += fmt::format("{},\"{}\",{},{},{:.1f},{:.1f},{:.1f}\n", r.group, r.what, r.cache,
                        r.threads, r.total, r.per_core, need);
  write_file_atomically(path, text);
}

}  // namespace

int bench_data(const Command& command) {
  const auto options = parse_options<BenchDataOptions>(command);
  if (!options) return 0;
  const BenchDataOptions& o = *options;
  AugmentConfig augment = augment_config(o);
  const Preprocess preprocess = choose_preprocess(o.model, std::nullopt, o, o.image_size);
  const Ranks ranks = choose_ranks(o);
  const int cores = available_cores();
  const auto counts = thread_counts(o.counts, cores);
  const auto kinds = cache_kinds(o.caches);
  require(o.cache == CacheKind::automatic, Failure::usage,
          "--cache {}: here --caches names the kinds to measure", to_string(o.cache));

  const TrainingData files = load_training_data(o);
  keep_upright(augment, o, o.model, files.train);
  say(fmt::format("{} training images; {}; {}", files.train.samples.size(), describe(preprocess),
                  describe(augment)));
  double need = o.need;
  if (o.measure_need)
    need = measure_need(o, ranks, preprocess.crop, static_cast<int>(files.train.classes.size()));
  std::vector<LoadRow> rows = measure_steps(o, files.train, preprocess, augment);
  if (!o.steps_only) {
    for (const CacheKind kind : kinds) {
      TrainingData data = files;
      DataOptions with_cache = o;
      with_cache.cache = kind;
      open_cache(data, with_cache, preprocess, {.threads = cores});
      const auto more = measure_threads(o, data.train, preprocess, augment, counts, kind);
      rows.insert(rows.end(), more.begin(), more.end());
    }
    const auto more = measure_strategies(o, files.train, preprocess, augment, cores);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  if (o.json)
    print_to_stdout(to_json(rows, need, cores));
  else
    print_to_stdout(table(rows) + (need > 0 ? needed(rows, need, cores) : "") +
                    (o.gaps ? gaps_of(o, rows, need, cores, ranks, preprocess) : ""));
  if (!o.out.empty()) write_csv(o.out, rows, need);
  return 0;
}

}  // namespace engine
