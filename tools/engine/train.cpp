// engine train: a data set and a model in, a run directory out.
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/safetensors.h"
#include "tools/engine/augment_options.h"
#include "tools/engine/data_options.h"
#include "tools/engine/device.h"
#include "tools/engine/input.h"
#include "tools/engine/recipe.h"
#include "tools/engine/terminal.h"
#include "tools/engine/trainer.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

constexpr Choice<OptimizerConfig::Kind> kOptimizers[] = {{"adam", OptimizerConfig::Kind::adam},
                                                         {"sgd", OptimizerConfig::Kind::sgd}};

struct TrainOptions : DataOptions, DeviceOptions, PreprocessOptions, AugmentOptions {
  std::filesystem::path out, weights;
  std::string model = "efficientnet_b3", resume;
  int image_size = 0;
  TrainConfig config;

  void visit(auto& v) {
    visit_data(v);
    v("--fast-decode", config.fast_decode, "decode large JPEGs at reduced size, in training only");
    v.group("Model");
    v("--model NAME", model, "efficientnet_b0 to b7, densenet121/161/169/201, mnist_cnn");
    v("--weights FILE", weights,
      "safetensors or .pth to start from; a head of another size starts anew");
    v("--image-size N", image_size, "side of the input; the resize scales with it (0: the model's)",
      Within{0, 4096});
    v.group("Recipe");
    v("--epochs N", config.epochs, "times through the training images", Within{1, 100000});
    v("-b, --batch-size N", config.batch, "images per rank and step", Within{1, 65536});
    v("--optimizer NAME", config.optimizer.kind, "as PyTorch's", kOptimizers);
    v("--momentum X", config.optimizer.momentum, "of sgd", Within{0, 1});
    v("--weight-decay X", config.optimizer.weight_decay, "added to the gradient", Within{0, 1});
    v("--loss-scale X", config.loss_scale, "initial loss scale of fp16", Within{1, 1 << 24});
    v("--seed N", config.seed, "of initial values, shuffling, augmentation and dropout");
    visit_schedule(v, config.schedule);
    v.group("Run");
    v("--out DIR", out, "run directory (default: runs/MODEL-DATE-TIME)");
    v("--max-steps N", config.max_steps, "stop after that many steps (0: no limit)", Within{0});
    v("--checkpoint-every N", config.checkpoint_every,
      "steps between checkpoints (0: one per epoch)", Within{0});
    v("--resume auto", resume, "auto: continue the run in --out if there is one");
    visit_augment(v);
    visit_preprocess(v);
    visit_device(v);
    visit_ranks(v);
  }
};

// Set by the signal handler; the trainer polls it after each step.
std::atomic<int>* stop_signal = nullptr;

extern "C" void on_signal(int number) {
  if (number == SIGINT && *stop_signal != 0) _exit(130);  // the second Ctrl-C stops at once
  *stop_signal = number;
}

void catch_signals(std::atomic<int>& flag) {
  stop_signal = &flag;
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) std::signal(number, on_signal);
}

std::optional<TensorFile> find_checkpoint(const TrainOptions& o) {
  if (o.resume.empty()) return std::nullopt;
  require(o.resume == "auto", Failure::usage, "--resume {}: known is auto", o.resume);
  require(!o.out.empty(), Failure::usage, "--resume auto needs --out: the run to continue");
  const std::filesystem::path path = o.out / kCheckpoint;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return read_safetensors(path);
}

void check_same_run(const TensorFile& checkpoint, const TrainShared& shared) {
  const std::string& model = checkpoint.metadata.at("model");
  require(model == shared.config.model, Failure::usage, "--model {}: the run to resume trains {}",
          shared.config.model, model);
  require(checkpoint.metadata.at("classes") == to_json(shared.data.train.classes), Failure::data,
          "the classes of {} are not those of the run to resume", shared.run.path().string());
}

}  // namespace

int train(const Command& command) {
  auto options = parse_options<TrainOptions>(command);
  if (!options) return 0;
  TrainOptions& o = *options;
  const Flags flags(o);
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

  const std::vector<std::string> known = model_names();
  require(std::find(known.begin(), known.end(), o.model) != known.end(), Failure::usage,
          "no model {}; known are {}", o.model, fmt::join(known, ", "));
  std::optional<TensorFile> checkpoint = find_checkpoint(o);
  std::optional<ModelFile> weights;
  if (!o.weights.empty() && !checkpoint) weights = read_model_file(o.weights, o.model);
  c.preprocess =
      choose_preprocess(o.model, weights ? weights->preprocess : std::nullopt, o, o.image_size);
  TrainingData data = load_training_data(o);
  make_model(o.model, {.classes = 2,
                       .height = c.preprocess.crop,
                       .width = c.preprocess.crop});  // the size is possible

  TrainShared shared{.config = c,
                     .data = std::move(data),
                     .weights = std::move(weights),
                     .checkpoint = std::move(checkpoint),
                     .run = RunDirectory::create(o.out, o.model, !o.resume.empty()),
                     .monitor = Monitor({.bus_ids = gpu_bus_ids(ranks)})};
  if (shared.checkpoint) check_same_run(*shared.checkpoint, shared);
  shared.run.write_args(flags);
  shared.run.write_command(command);
  shared.run.write_classes(shared.data.train.classes);
  shared.run.write_environment(describe_ranks(ranks));
  say(fmt::format("{}: {} classes, {} training and {} validation images; {}", o.model,
                  shared.data.train.classes.size(), shared.data.train.samples.size(),
                  shared.data.validation.samples.size(), describe(c.preprocess)));
  catch_signals(shared.signal);
  try {
    shared.cache = open_cache(shared.data, o, c.preprocess,
                              {.threads = ranks.workers * ranks.count(),
                               .reused = c.epochs > 1,
                               .stop = [&shared] { return shared.signal != 0; }});
    shared.run.log("cache", to_json(shared.cache));
    on_every_rank(ranks, [&](int rank) { Trainer(shared, ranks.kind, ranks.options[rank]).run(); });
  } catch (...) {
    if (!shared.started && !shared.checkpoint)
      std::filesystem::remove_all(shared.run.path());  // it holds nothing
    throw;
  }
  say(fmt::format("run directory {}\n  metrics  {}\n  weights  {}", shared.run.path().string(),
                  (shared.run.path() / "results.csv").string(),
                  shared.run.weights("best").string()));
  return 0;
}

}  // namespace engine
