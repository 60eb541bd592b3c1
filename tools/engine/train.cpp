// engine train: a data set and a model in, a run directory out.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/watchdog.h"
#include "io/data/device_augment.h"
#include "io/data/pack.h"
#include "io/data/split.h"
#include "models/models.h"
#include "tools/cli/shell.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "tools/data/class_weights.h"
#include "tools/data/leaks.h"
#include "tools/engine/dry_run.h"
#include "tools/engine/train_folds.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"
#include "tools/machine/processes.h"
#include "tools/machine/spawn.h"
#include "tools/score/published.h"
#include "tools/train/equal_ranks.h"
#include "tools/train/model_card.h"
#include "tools/train/run_flags.h"
#include "tools/train/test_fault.h"
#include "tools/train/train_options.h"
#include "tools/train/trainer.h"
#include "tools/train/training_plan.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// ---------------------------------------------------------------- where a run begins

// In o.out the folder of the run that --resume names.
void find_folder(TrainOptions& o) {
  if (o.resume.empty()) return;
  if (o.resume == "auto")
    return require(!o.out.empty(), Failure::usage,
                   "--resume auto needs --out: the run to continue");
  std::error_code error;
  const fs::file_status status = fs::status(o.resume, error);
  require(fs::exists(status), Failure::usage, "--resume {}: there is no such file or folder",
          o.resume);
  if (o.out.empty()) o.out = run_of(o.resume);
}

// What an interrupted save has left is removed if the folder is ours, which is locked.
std::optional<Checkpoint> find_checkpoint(const TrainOptions& o) {
  if (o.resume.empty()) return std::nullopt;
  const fs::path path = o.resume == "auto" ? o.out : fs::path(o.resume);
  std::error_code error;
  if (fs::is_regular_file(path, error)) return read_checkpoint(path);
  const CheckpointFolder folder(path, o.config.keep);
  if (!o.plan_only && fs::equivalent(path, o.out, error)) folder.remove_leftovers();
  std::optional<Checkpoint> newest = folder.newest([](const std::string& line) { say(line); });
  require(newest || o.resume == "auto", Failure::usage,
          "--resume {}: no checkpoint ckpt/step_… in it", o.resume);
  return newest;
}

// What the flags name to begin with. Neither a checkpoint nor weights: the model starts anew.
struct Start {
  std::optional<Checkpoint> checkpoint;
  std::optional<ModelFile> weights;
  std::optional<Preprocess> preprocess;  // of either
  std::optional<double> norm_epsilon;    // of either
};

// Process 0 chooses the checkpoint, and sets aside what is damaged; the others read the same file.
std::optional<Checkpoint> find_checkpoint(const TrainOptions& o, const Ranks& ranks) {
  std::optional<Checkpoint> found;
  if (ranks.leads()) found = find_checkpoint(o);
  const std::string file = from_process_0(ranks, found ? fs::absolute(found->file).string() : "");
  if (!ranks.leads() && !file.empty()) found = read_checkpoint(file);
  return found;
}

// Weights that --dry-run would have to fetch, which it leaves.
std::optional<ManifestEntry> absent_weights(const TrainOptions& o) {
  if (!o.plan_only || o.weights.empty()) return std::nullopt;
  auto entry = still_to_fetch(o.weights, o.model);
  if (entry)
    say(fmt::format("--weights {}: to be fetched, {:.0f} MiB of {}", o.weights.string(), entry->mib,
                    entry->source));
  return entry;
}

Start find_start(const TrainOptions& o, const Ranks& ranks) {
  Start start{.checkpoint = find_checkpoint(o, ranks)};
  if (start.checkpoint) {
    const RunIdentity& before = start.checkpoint->identity;
    require(o.model == before.model, Failure::usage, "--model {}: the run to resume trains {}",
            o.model, before.model);
    start.preprocess = before.preprocess;
    start.norm_epsilon = before.norm_epsilon;
  } else if (const auto absent = absent_weights(o)) {
    start.preprocess = published_preprocess(absent->names.front());
  } else if (!o.weights.empty()) {
    start.weights = read_model_file(o.weights, o.model, o.weights_key);
    start.preprocess = start.weights->preprocess;
    start.norm_epsilon = start.weights->norm_epsilon;
  }
  return start;
}

// What suits every process.
int least_of(const Ranks& ranks, int value) {
  for (const std::string& text : from_every_process(ranks, std::to_string(value)))
    value = std::min(value, std::stoi(text));
  return value;
}

// The loss of the task of the images. Error(usage) where a flag is for the other task.
void choose_loss(TrainConfig& c, const TrainOptions& o, const Dataset& train) {
  c.loss.task = train.task;
  if (train.task == Task::classes) {
    require(o.positive_weighting == "none", Failure::usage,
            "--positive-weights is for several labels per image; --class-weights weighs classes");
    c.loss.class_weights = class_weights(o.weighting, train);
    return;
  }
  require(o.weighting == "none", Failure::usage,
          "--class-weights is for one class per image; --positive-weights weighs labels");
  require(!c.balanced, Failure::usage,
          "--sampler balanced draws classes, and these images have several labels each");
  c.loss.class_weights = positive_weights(o.positive_weighting, train);
  if (!c.early_stop.watch) c.early_stop.watch = "loss";
}

// The data, and in `c` the batch and the loss that they decide.
TrainingData load_data(TrainConfig& c, const TrainOptions& o, const Ranks& ranks) {
  TrainingData data = load_training_data(o);
  stop_if_requested("reading the data set");
  if (const std::string said = keep_upright(c.augment, o, o.model, data.train); !said.empty())
    say(said);
  choose_loss(c, o, data.train);
  check_watch(c.early_stop.watched(), data.validation);
  c.batch = o.batch_size == "auto" ? least_of(ranks, automatic_batch(c, data, ranks))
                                   : parse_batch_size(o.batch_size);
  const int images = static_cast<int>(data.train.samples.size());
  require(images >= ranks.world(), Failure::usage, "{} training images are fewer than {} ranks",
          images, ranks.world());
  const int most = (images + ranks.world() - 1) / ranks.world();
  if (c.batch > most) {
    say(fmt::format("batch size {}: with {} training images it is {}", c.batch, images, most));
    c.batch = most;
  }
  check_norms(c, data, ranks.world());
  return data;
}

// ---------------------------------------------------------------- the images

// What keeps the images from being cached on the devices; empty if nothing does.
std::string gpu_cache_obstacle(const TrainConfig& c, const Ranks& ranks, const DataOptions& o) {
  if (ranks.kind != BackendKind::cuda) return "not on a GPU";
  if (c.growth.last > 0) return "images grow";
  if (o.cache_size) return "--cache-size is for the others";
  return device_obstacle(c.augment, c.preprocess, pack_spec(c.preprocess));
}

CacheLimits cache_limits(const TrainConfig& c, const TrainingData& data, const Ranks& ranks,
                         const DataOptions& o) {
  CacheLimits limits{.threads = ranks.workers * ranks.count(), .reused = c.epochs > 1, .stop = [] {
                       return stop_requested();
                     }};
  if (std::string why = gpu_cache_obstacle(c, ranks, o); !why.empty())
    limits.device_bytes = Obstacle{std::move(why)};
  else if (const uint64_t bytes = bytes_beside_training(c, data, ranks); bytes > 0)
    limits.device_bytes = bytes;
  else
    limits.device_bytes = Obstacle{"the run itself needs the device's memory"};
  return limits;
}

// Says so if a file that the run has read holds something else now.
void compare_images(TrainShared& shared) {
  const ImageDigests& now = shared.identity.images;
  const ImageDigests& before = shared.checkpoint->identity.images;
  const bool known = !before.contents.empty() && !now.contents.empty();
  if (known ? before.contents == now.contents : before.sizes == now.sizes) return;
  const std::string line =
      "images have changed since the checkpoint was saved: from here on they are used as they are "
      "now, and the run ends with other bits than an undisturbed one";
  say(paint(line, Colour::yellow, stderr));
  shared.run.note(line);
}

void prepare_images(TrainShared& shared, const TrainOptions& o, const CacheLimits& limits) {
  std::optional<CacheKind> before;
  if (shared.checkpoint) before = shared.checkpoint->identity.cache;
  shared.cache = open_cache(shared.data, o, shared.config.preprocess, limits, before);
  shared.identity.cache = shared.cache.kind;
  shared.run.log("cache", to_json(shared.cache));
  shared.identity.images = image_digests(shared.data);
  if (shared.checkpoint) compare_images(shared);
  require_readable_classes(shared.data.train, unreadable_in_pack(shared.data.train));
  require_readable(parts_of(shared.data));
  report_leaks(parts_of(shared.data), o, {.threads = limits.threads, .stop = limits.stop},
               shared.run.path());
}

// Process 0 chooses the cache and makes its file; the others use the same kind.
void prepare_images(TrainShared& shared, const TrainOptions& o, const Ranks& ranks) {
  const CacheLimits limits = cache_limits(shared.config, shared.data, ranks, o);
  const std::string kind = made_by_process_0(ranks, [&] {
    prepare_images(shared, o, limits);
    return std::string(to_string(shared.cache.kind));
  });
  if (ranks.leads()) return;
  DataOptions same = o;
  same.cache = std::ranges::find(kCacheKinds, kind, &Choice<CacheKind>::name)->value;
  shared.cache = open_cache(shared.data, same, shared.config.preprocess, limits);
}

// ---------------------------------------------------------------- the run

// Process 0 locks the folder, whose name may hold the time.
std::optional<RunLock> lock_folder(TrainOptions& o, const Ranks& ranks) {
  if (!ranks.leads()) return std::nullopt;
  find_folder(o);
  if (o.plan_only) return std::nullopt;
  return RunLock::take(o.out, o.model, !o.resume.empty());
}

RunDirectory open_run(std::optional<RunLock> lock, const Ranks& ranks) {
  if (!lock) return RunDirectory::kept_elsewhere(from_process_0(ranks, ""));
  RunDirectory run = RunDirectory::create(std::move(*lock));
  from_process_0(ranks, fs::absolute(run.path()).string());
  return run;
}

// Notes what was asked for and what it runs on.
void begin_run(TrainShared& shared, const TrainOptions& o, const Flags& flags,
               const Command& command, const Ranks& ranks) {
  shared.run.write_args(flags);
  shared.run.write_command(command);
  shared.run.write_classes(shared.data.train.classes);
  if (shared.data.drawn) shared.run.write_split(split_csv(shared.data, o.root()));
  shared.run.log("data",
                 {{"places", to_json(shared.data.notes)}, {"parts", describe_parts(shared.data)}});
  shared.run.begin_session(flags);
  for (const std::string& line : shared.data.notes.lines) shared.run.note(line);
  shared.run.write_environment(describe_ranks(ranks));
  say(fmt::format("{}: {} {}, {} training and {} validation images; {}", o.model,
                  shared.data.train.classes.size(),
                  shared.data.train.task == Task::labels ? "labels" : "classes",
                  shared.data.train.samples.size(), shared.data.validation.samples.size(),
                  describe(shared.config.preprocess)));
}

// Tells of a rank that is lost on the screen and in the run's folder, and ends the process where
// the verdict does not: then what is being saved is given up, and the last checkpoint stands.
std::unique_ptr<Watchdog> make_watchdog(RunDirectory& run, const TrainOptions& o,
                                        const Ranks& ranks) {
  WatchdogOptions options{.group = ranks.options[0].communicator.group,
                          .lifeline = ranks.lifeline,
                          .host = this_host().name,
                          .timeout = double(o.collective_timeout)};
  if (ranks.kind == BackendKind::cuda)
    for (const BackendOptions& rank : ranks.options) options.devices.push_back(rank.device);
  options.tell = [&run](const std::string& verdict) {
    say(fmt::format("{} {}", paint("watchdog:", Colour::red, stderr), verdict));
    run.note(verdict);
    run.log("watchdog", {{"verdict", verdict}});
  };
  options.end = [](const std::string& why) {
    say_error(
        fmt::format("watchdog: not every rank comes to its end by itself after this: {}", why));
    std::_Exit(static_cast<int>(Failure::collective));
  };
  return std::make_unique<Watchdog>(std::move(options));
}

// A rank that is lost is told as the watchdog tells it.
void train_ranks(TrainShared& shared, const Ranks& ranks, const TrainOptions& o) {
  shared.watchdog = make_watchdog(shared.run, o, ranks);
  try {
    on_every_rank(ranks, [&](int i) {
      Trainer trainer(shared, ranks.kind, ranks.options[i]);
      o.lr_find ? trainer.lr_find(o.lr_find_steps) : trainer.run();
    });
  } catch (const Error& error) {
    if (error.kind != Failure::collective) throw;
    if (const auto verdict = shared.watchdog->conclude()) fail(Failure::collective, "{}", *verdict);
    throw;
  }
}

void print_plan(const DryRun& plan) {
  print_to_stdout(plan.text);
  require(plan.obstacle.empty(), Failure::memory, "does not fit: {}", plan.obstacle);
}

void train_on(const Ranks& ranks, TrainOptions& o, const Flags& flags, const Command& command) {
  TrainConfig c = train_config(o, ranks);
  c.fault = parse_test_fault(std::getenv("ENGINE_TEST_FAULT"));
  for (const std::string& line : flags_without_effect(c)) say(paint(line, Colour::yellow, stderr));
  make_model(o.model, {});  // there is such a model
  // A folder to resume in is locked before it is read. A new one is made when the data are known:
  // it may lie among them, and is no class.
  std::optional<RunLock> lock = o.resume.empty() ? std::nullopt : lock_folder(o, ranks);
  Start start = find_start(o, ranks);
  c.preprocess = choose_preprocess(o.model, start.preprocess, o,
                                   c.growth.last > 0 ? c.growth.last : o.image_size);
  c.norm_epsilon = start.norm_epsilon;
  if (o.lr_find) c.rules.freeze_epochs = 0;  // the rate is that of all layers
  check_model(c);
  TrainingData data = load_data(c, o, ranks);
  if (start.weights) check_start(training_graph(c, data, c.preprocess.crop), *start.weights);
  if (o.plan_only) return print_plan(dry_run(c, o, data));
  check_memory(c, data, ranks);

  RunIdentity identity = run_identity(c, data, flags, ranks.world());
  check_equal_runs(ranks, identity, flags, start.checkpoint);
  if (start.checkpoint)
    check_same_run(start.checkpoint->identity, identity, start.checkpoint->at.position != 0);
  TrainShared shared{.config = std::move(c),
                     .data = std::move(data),
                     .weights = std::move(start.weights),
                     .checkpoint = std::move(start.checkpoint),
                     .identity = std::move(identity),
                     .run = open_run(lock ? std::move(lock) : lock_folder(o, ranks), ranks),
                     .monitor = Monitor({.bus_ids = gpu_bus_ids(ranks)})};
  shared.by_validation = read_columns(o, o.by, shared.data.validation);
  if (shared.data.test) shared.by_test = read_columns(o, o.by, *shared.data.test);
  if (!shared.checkpoint)
    shared.run.continue_after(0, 0);  // a run that was killed before its first checkpoint
  try {
    begin_run(shared, o, flags, command, ranks);
    prepare_images(shared, o, ranks);
    train_ranks(shared, ranks, o);
  } catch (...) {
    try {
      shared.run.end_session(false);
    } catch (const Error&) {  // the first error is the one to tell
    }
    shared.started ? shared.run.keep() : shared.run.take_back_start();
    throw;
  }
  shared.run.keep();
  shared.run.end_session(true);
  if (o.lr_find) return;
  if (ranks.leads()) write_model_card(shared);
  say(fmt::format(
      "run directory {}\n  metrics  {}\n  weights  {}\n  card     {}\n  report   engine report {}",
      shared.run.path().string(), (shared.run.path() / "results.csv").string(),
      shared.run.weights("best").string(), (shared.run.path() / "model_card.md").string(),
      shell_word(shared.run.path().string())));
}

// The flags of the run that --resume names, where it names one, and those of the command line,
// which win.
std::optional<TrainOptions> read_options(const Command& command) {
  std::optional<TrainOptions> given = parse_options<TrainOptions>(command);
  if (!given || given->resume.empty() || given->resume == "auto") return given;
  const std::optional<Config> before = latest_flags(run_of(given->resume));
  if (!before) return given;
  TrainOptions resumed;
  GeneralOptions general;
  const Flags flags(resumed, general);
  parse_flags(flags, {}, before);
  const auto weights = resumed.weights;
  parse_flags(flags, command.arguments, read_config(command.arguments));
  require(resumed.weights == weights || fs::absolute(resumed.weights) == weights, Failure::usage,
          "--weights {}: the run to resume goes on from its own; it began with {}",
          resumed.weights.string(), weights.empty() ? "random values" : weights.string());
  return resumed;
}

std::vector<std::string> words_of(const Command& command) {
  std::vector<std::string> words = {command.verb};
  words.insert(words.end(), command.arguments.begin(), command.arguments.end());
  return words;
}

}  // namespace

int train(const Command& command) {
  auto options = read_options(command);
  if (!options) return 0;
  TrainOptions& o = *options;
  if (o.folds && !o.fold) return train_folds(command, o);
  if (o.plan_only) o.launch = RankLaunch::thread;
  if (const int processes = processes_to_start(o); processes > 1)
    return run_processes(processes, words_of(command));
  TrainOptions kept = o;
  const Flags flags(kept);
  make_paths_absolute(flags);
  if (!o.plan_only) catch_stop_signals();  // else there is nothing to save
  const Ranks ranks = o.plan_only ? choose_ranks(o) : join_ranks(o, stop_requested);
  if (!ranks.leads()) fall_silent();
  try {
    train_on(ranks, o, flags, command);
  } catch (const std::exception& error) {
    tell_others(ranks, error);
    const auto* ours = dynamic_cast<const Error*>(&error);
    if (ours && ours->kind == Failure::preempted && !ranks.leads())
      return static_cast<int>(ours->kind);  // process 0 says why
    throw;
  }
  return 0;
}

}  // namespace engine
