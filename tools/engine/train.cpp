// engine train: a data set and a model in, a run directory out.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/data/device_augment.h"
#include "io/data/pack.h"
#include "io/data/split.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "models/models.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "tools/data/augment_options.h"
#include "tools/data/class_weights.h"
#include "tools/data/data_options.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/dry_run.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"
#include "tools/train/recipe.h"
#include "tools/train/trainer.h"
#include "tools/train/training_plan.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr Choice<bool> kSamplers[] = {{"shuffle", false}, {"balanced", true}};

struct TrainOptions : DataOptions, DeviceOptions, PreprocessOptions, AugmentOptions {
  fs::path out, weights;
  std::string model = "efficientnet_b3", batch_size = "64", progressive_size, resume;
  int image_size = 0, lr_find_steps = 100;
  std::string weighting = "none";
  bool lr_find = false, plan_only = false;
  TrainConfig config;

  void visit(auto& v) {
    visit_data(v);
    v("--fast-decode", config.fast_decode, "decode large JPEGs at reduced size, in training only");
    v.group("Model");
    v("--model NAME", model, "what to train", known_models());
    v("--weights FILE", weights,
      "safetensors or .pth to start from; a head of another size starts anew");
    v("--image-size, --img-size N", image_size,
      "side of the input; the resize scales with it (0: the model's)", Within{0, 4096});
    v("--progressive-size A:B", progressive_size,
      "images grow from A to B pixels over the run, in four stages");
    v.group("Recipe");
    v("--epochs N", config.epochs, "times through the training images", Within{1, 100000});
    v("-b, --batch-size N|auto", batch_size,
      "images per rank and step; auto: the most that memory holds");
    v("--seed N", config.seed, "of initial values, shuffling, augmentation and dropout");
    v("--loss-scale X", config.loss_scale, "initial loss scale of fp16", Within{1, 1 << 24});
    v("--accumulate, --grad-accum-steps N", config.accumulate, "batches of each rank in one update",
      Within{1, 1 << 20});
    v("--sampler NAME", config.balanced,
      "shuffle; balanced: draws every class equally often, with repetition", kSamplers);
    v("--label-smoothing, --smoothing X", config.loss.smoothing, "as torch.nn.CrossEntropyLoss",
      Within{0, 0.999});
    v("--class-weights none|auto|FILE", weighting,
      "of the loss; auto: images / (classes · images of the class); FILE: a CSV, class,weight");
    v("--ema, --model-ema-decay X", config.ema_decay,
      "average the weights with this decay; the averages are validated and kept (0: no)",
      Within{0, 1});
    v("--freeze-norms", config.frozen_norms, "batch norms use the running statistics, which stay");
    visit_optimizer(v, config.optimizer, config.rules);
    visit_schedule(v, config.schedule);
    v("--lr-find", lr_find, "range test instead of training: lr_find.csv, and a rate to try");
    v("--lr-find-steps N", lr_find_steps, "of the range test", Within{10, 100000});
    visit_early_stop(v, config.early_stop);
    v.group("Run");
    v("--out, --output DIR", out, "run directory (default: runs/MODEL-DATE-TIME)");
    v("--max-steps N", config.max_steps, "stop after that many steps (0: no limit)", Within{0});
    v("--max-time MINUTES", config.max_minutes,
      "stop after that much training, interruptions left out (0: no limit)", Within{0});
    v("--checkpoint-every N", config.checkpoint_every,
      "steps between checkpoints (0: one per epoch)", Within{0});
    v("--keep N", config.keep, "checkpoints that are kept, the newest ones", Within{1, 1000000});
    v("--log-every N", config.log_every, "steps between lines of metrics.jsonl",
      Within{1, 1000000});
    v("--resume auto|PATH", resume,
      "auto: continue the run in --out if there is one; else a run's folder or a checkpoint");
    v("--dry-run", plan_only, "print plan, arithmetic, memory and a time estimate; train nothing");
    visit_augment(v);
    visit_preprocess(v);
    visit_device(v);
    visit_ranks(v);
  }
};

int parse_number(std::string_view flag, std::string_view whole, std::string_view text, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size() && value >= 1 && value <= most,
          Failure::usage, "{} {}: '{}' is no number from 1 to {}", flag, whole, text, most);
  return value;
}

SizeGrowth parse_growth(const std::string& text) {
  if (text.empty()) return {};
  const size_t colon = text.find(':');
  require(colon != std::string::npos, Failure::usage, "--progressive-size {}: it is A:B", text);
  const SizeGrowth growth{
      parse_number("--progressive-size", text, std::string_view(text).substr(0, colon), 4096),
      parse_number("--progressive-size", text, std::string_view(text).substr(colon + 1), 4096)};
  require(growth.first <= growth.last, Failure::usage, "--progressive-size {}: images only grow",
          text);
  return growth;
}

// Before anything that takes long: the model exists at the size of the images, and where these grow with the same
// weights; --freeze names some of them.
void check_model(const TrainConfig& c) {
  const auto of_size = [&](int size) {
    return make_model(c.model, {.height = size, .width = size});
  };
  const Graph last = of_size(c.preprocess.crop);
  parameter_rule(c.rules, last);
  if (c.growth.last == 0) return;
  const Graph first = of_size(c.growth.first);
  for (size_t p = 0; p < last.parameters.size(); ++p)
    require(first.parameters[p].shape == last.parameters[p].shape, Failure::usage,
            "--progressive-size {}:{}: {} of {} is {} first and {} last", c.growth.first,
            c.growth.last, last.parameters[p].name, c.model, to_string(first.parameters[p].shape),
            to_string(last.parameters[p].shape));
}

// ---------------------------------------------------------------- resume

// The checkpoint to go on from, and in o.out the folder of its run.
std::optional<Checkpoint> find_checkpoint(TrainOptions& o) {
  if (o.resume.empty()) return std::nullopt;
  if (o.resume == "auto") {
    require(!o.out.empty(), Failure::usage, "--resume auto needs --out: the run to continue");
  } else {
    const fs::path path = o.resume;
    require(fs::exists(path), Failure::usage, "--resume {}: there is no such file or folder",
            o.resume);
    if (fs::is_regular_file(path)) {
      if (o.out.empty()) o.out = fs::absolute(path).parent_path().parent_path();
      return read_checkpoint(path);
    }
    if (o.out.empty()) o.out = path;
  }
  const CheckpointFolder folder(o.resume == "auto" ? o.out : fs::path(o.resume), o.config.keep);
  folder.remove_leftovers();
  std::optional<Checkpoint> newest = folder.newest([](const std::string& line) { say(line); });
  require(newest || o.resume == "auto", Failure::usage,
          "--resume {}: no checkpoint ckpt/step_… in it", o.resume);
  return newest;
}

// Which images there are, by name and class; where the folder lies does not matter.
std::string digest(const TrainingData& data) {
  Sha256 hash;
  for (const Dataset* part : {&data.train, &data.validation})
    for (const Sample& sample : part->samples)
      hash.update(as_bytes(
          fmt::format("{}\n{}\n", fs::path(sample.path).filename().string(), sample.label)));
  return hash.finish();
}

// Flags that do not change what is computed.
bool matters(std::string_view flag) {
  static constexpr std::string_view kOthers[] = {
      "data",   "out",   "resume",    "epochs",    "max_steps", "max_time",      "checkpoint_every",
      "keep",   "gpus",  "ranks",     "workers",   "threads",   "weights",       "workspace",
      "device", "cache", "cache_dir", "log_every", "lr_find",   "lr_find_steps", "config",
      "color"};
  return std::find(std::begin(kOthers), std::end(kOthers), flag) == std::end(kOthers);
}

nlohmann::json recipe(const Flags& flags) {
  nlohmann::json all = nlohmann::json::parse(to_json(flags)), chosen;
  for (const auto& [flag, value] : all.items())
    if (matters(flag)) chosen[flag] = value;
  return chosen;
}

std::map<std::string, std::string> facts_of(const TrainConfig& c, const TrainingData& data,
                                            const Flags& flags, int ranks) {
  return {{"model", c.model},
          {"classes", to_json(data.train.classes)},
          {"preprocess", to_json(c.preprocess)},
          {"images", digest(data)},
          {"batches", fmt::format("{} x {} x {}, seed {}{}", c.batch, ranks, c.accumulate, c.seed,
                                  c.balanced ? ", balanced" : "")},
          {"recipe", recipe(flags).dump()}};
}

void check_same_run(const Checkpoint& checkpoint, const std::map<std::string, std::string>& ours) {
  const auto& theirs = checkpoint.facts;
  const auto same = [&](const char* fact) { return theirs.at(fact) == ours.at(fact); };
  if (!same("classes")) {
    const auto now = nlohmann::json::parse(ours.at("classes")),
               then = nlohmann::json::parse(theirs.at("classes"));
    size_t i = 0;
    while (i < std::min(now.size(), then.size()) && now[i] == then[i]) ++i;
    const auto name = [&](const nlohmann::json& names) {
      return i < names.size() ? names[i].dump() : "none";
    };
    fail(Failure::data,
         "the classes are not those of the run to resume: {} against {}, and number {} is {}, not "
         "{}",
         now.size(), then.size(), i, name(now), name(then));
  }
  require(same("images"), Failure::data,
          "the images are not those of the run to resume: some were added, removed or renamed");
  require(same("batches") || checkpoint.at.epoch_step == 0, Failure::usage,
          "the checkpoint is in the middle of an epoch of batches of {}; {} would see other images",
          theirs.at("batches"), ours.at("batches"));
  const auto before = nlohmann::json::parse(theirs.at("recipe")),
             after = nlohmann::json::parse(ours.at("recipe"));
  for (const auto& [flag, value] : after.items())
    if (const auto was = before.value(flag, nlohmann::json()); was != value)
      say(fmt::format("{}: {} until now, {} from here on", flag, was.dump(), value.dump()));
}

// Says so if a file that the run has read holds something else now.
void note_images(TrainShared& shared) {
  const ImageDigests now = image_digests(shared.data);
  if (shared.checkpoint) {
    const auto& before = shared.checkpoint->facts;
    const std::string &sizes = before.at("image_sizes"), &contents = before.at("image_contents");
    const bool known = !contents.empty() && !now.contents.empty();
    if (known ? contents != now.contents : sizes != now.sizes) {
      const std::string line =
          "images have changed since the checkpoint was saved: from here on they are used as they "
          "are now, and the run ends with other bits than an undisturbed one";
      say(paint(line, Colour::yellow, stderr));
      shared.run.note(line);
    }
  }
  shared.facts["image_sizes"] = now.sizes;
  shared.facts["image_contents"] = now.contents;
}

std::optional<CacheKind> cache_of(const std::optional<Checkpoint>& checkpoint) {
  if (!checkpoint) return std::nullopt;
  for (const auto& choice : kCacheKinds)
    if (choice.name == checkpoint->facts.at("cache")) return choice.value;
  return std::nullopt;
}

// ---------------------------------------------------------------- cache

// What keeps the images from being cached on the devices; empty if nothing does.
std::string gpu_cache_obstacle(const TrainConfig& c, const Ranks& ranks, const DataOptions& o) {
  if (ranks.kind != BackendKind::cuda) return "not on a GPU";
  if (c.growth.last > 0) return "images grow";
  if (o.cache_size) return "--cache-size is for the others";
  return device_obstacle(c.augment, c.preprocess, pack_spec(c.preprocess));
}

CacheLimits cache_limits(const TrainConfig& c, const TrainingData& data, const Ranks& ranks,
                         const DataOptions& o) {
  CacheLimits limits{.threads = ranks.workers * ranks.count(),
                     .no_gpu = gpu_cache_obstacle(c, ranks, o),
                     .reused = c.epochs > 1,
                     .stop = [] { return stop_requested(); }};
  if (!limits.no_gpu.empty()) return limits;
  limits.device_bytes = bytes_beside_training(c, data, ranks);
  limits.no_gpu = "the run itself needs the device's memory";
  return limits;
}

}  // namespace

int train(const Command& command) {
  auto options = parse_options<TrainOptions>(command);
  if (!options) return 0;
  TrainOptions& o = *options;
  const Flags flags(o);
  catch_stop_signals();
  const Ranks ranks = choose_ranks(o);
  TrainConfig& c = o.config;
  c.model = o.model;
  c.augment = augment_config(o);
  c.precision = ranks.precision;
  c.conv = o.conv;
  c.deterministic = o.deterministic;
  c.workspace = size_t(o.workspace) << 20;
  c.workers = ranks.workers;
  c.on_bad_image = o.on_bad_image;
  c.growth = parse_growth(o.progressive_size);

  make_model(o.model, {});  // there is such a model
  std::optional<Checkpoint> checkpoint = find_checkpoint(o);
  std::optional<ModelFile> weights;
  std::optional<Preprocess> stored;
  if (checkpoint) {
    require(o.model == checkpoint->facts.at("model"), Failure::usage,
            "--model {}: the run to resume trains {}", o.model, checkpoint->facts.at("model"));
    stored = preprocess_from_json(checkpoint->facts.at("preprocess"));
  } else if (!o.weights.empty()) {
    weights = read_model_file(o.weights, o.model);
    stored = weights->preprocess;
  }
  c.preprocess =
      choose_preprocess(o.model, stored, o, c.growth.last > 0 ? c.growth.last : o.image_size);
  check_model(c);
  TrainingData data = load_training_data(o);
  stop_if_requested("reading the data set");
  require(data.train.classes.size() > 1, Failure::data,
          "the training images are all of one class, \"{}\"", data.train.classes.at(0));
  c.loss.class_weights = class_weights(o.weighting, data.train);
  c.batch = o.batch_size == "auto"
                ? automatic_batch(c, data, ranks)
                : parse_number("--batch-size", o.batch_size, o.batch_size, 65536);
  const int images = static_cast<int>(data.train.samples.size());
  require(images >= ranks.count(), Failure::usage, "{} training images are fewer than {} ranks",
          images, ranks.count());
  const int most = (images + ranks.count() - 1) / ranks.count();
  if (c.batch > most) {
    say(fmt::format("batch size {}: with {} training images it is {}", c.batch, images, most));
    c.batch = most;
  }

  if (o.plan_only) return print_to_stdout(dry_run(c, o, data)), 0;

  std::map<std::string, std::string> facts = facts_of(c, data, flags, ranks.count());
  if (checkpoint) check_same_run(*checkpoint, facts);
  TrainShared shared{.config = c,
                     .data = std::move(data),
                     .weights = std::move(weights),
                     .checkpoint = std::move(checkpoint),
                     .facts = std::move(facts),
                     .run = RunDirectory::create(o.out, o.model, !o.resume.empty()),
                     .monitor = Monitor({.bus_ids = gpu_bus_ids(ranks)})};
  if (!shared.checkpoint)
    shared.run.continue_after(0, 0);  // a run that was killed before its first checkpoint
  try {
    shared.run.write_args(flags);
    shared.run.write_command(command);
    shared.run.write_classes(shared.data.train.classes);
    if (o.splits()) shared.run.write_split(split_csv(shared.data, o.root()));
    shared.run.write_environment(describe_ranks(ranks));
    say(fmt::format("{}: {} classes, {} training and {} validation images; {}", o.model,
                    shared.data.train.classes.size(), shared.data.train.samples.size(),
                    shared.data.validation.samples.size(), describe(c.preprocess)));
    const CacheLimits limits = cache_limits(c, shared.data, ranks, o);
    shared.cache = open_cache(shared.data, o, c.preprocess, limits, cache_of(shared.checkpoint));
    shared.facts["cache"] = to_string(shared.cache.kind);
    shared.run.log("cache", to_json(shared.cache));
    note_images(shared);
    report_duplicates(parts_of(shared.data), o, {.threads = limits.threads, .stop = limits.stop},
                      shared.run.path());
    on_every_rank(ranks, [&](int rank) {
      Trainer trainer(shared, ranks.kind, ranks.options[rank]);
      o.lr_find ? trainer.find_rate(o.lr_find_steps) : trainer.run();
    });
  } catch (...) {
    if (!shared.started && o.resume.empty()) fs::remove_all(shared.run.path());  // it holds nothing
    throw;
  }
  if (o.lr_find) return 0;
  say(fmt::format("run directory {}\n  metrics  {}\n  weights  {}", shared.run.path().string(),
                  (shared.run.path() / "results.csv").string(),
                  shared.run.weights("best").string()));
  return 0;
}

}  // namespace engine
