// engine finetune: engine train with what suits the images and the device for every flag that is
// not given.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "engine/error.h"
#include "io/data/idx.h"
#include "io/data/likely_folder.h"
#include "io/files/bytes.h"
#include "io/images/inspect.h"
#include "io/weights/manifest.h"
#include "models/models.h"
#include "tools/bench/model_facts.h"
#include "tools/bench/step.h"
#include "tools/cli/flag_text.h"
#include "tools/cli/shell.h"
#include "tools/cli/terminal.h"
#include "tools/data/data_options.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"
#include "tools/train/finetune_recipe.h"
#include "tools/train/run_flags.h"
#include "tools/train/train_options.h"
#include "tools/train/training_plan.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

struct FinetuneOptions : TrainOptions {
  fs::path folder;

  void visit(auto& v) {
    v("DIR", folder, "train/CLASS/…, val/CLASS/… and perhaps test/CLASS/…; or CLASS/… alone");
    TrainOptions::visit(v);
  }
};

constexpr char kHelp[] =
    R"(: {}

usage: engine finetune DIR [--flag value]...

  DIR   a folder of images for each class, in DIR/train and DIR/val, perhaps
        DIR/test; or in DIR itself, which is then split at random

It chooses weights, image size, batch, epochs, learning rates and augmentation
by the images and the device, tells each choice with its reason, prints the
command engine train that does the same, and does it. Every flag of engine train
may be given and is then not chosen: engine help train lists them. With
--dry-run it tells the choices, memory and time, and trains nothing.
)";

// ---------------------------------------------------------------- what is there

// The median of the shorter sides of some of the images, as they are stored. What cannot be read is
// the training's to tell.
int typical_side(const Dataset& data) {
  constexpr size_t kLooked = 64;
  std::vector<int> sides;
  const size_t count = data.samples.size();
  for (size_t i = 0; i < std::min(count, kLooked); ++i) {
    const size_t at = i * count / std::min(count, kLooked);
    if (!data.images.empty()) {
      sides.push_back(std::min(data.images[at].width, data.images[at].height));
      continue;
    }
    const std::string& path = data.samples[at].path;
    try {
      const ImageInfo info = inspect_image(read_file(path), path);
      sides.push_back(std::min(info.width, info.height));
    } catch (const Error&) {
      continue;
    }
  }
  if (sides.empty()) return 0;
  std::ranges::nth_element(sides, sides.begin() + std::ssize(sides) / 2);
  return sides[sides.size() / 2];
}

void add_folder(std::vector<LooseSet>& sets, const char* part, const fs::path& folder,
                ClassOrder order) {
  if (has_class_folders(folder)) sets.push_back({part, read_image_folder(folder, order)});
}

// Without what there is to be told of the files, which engine train tells.
std::vector<LooseSet> look_at(const FinetuneOptions& o) {
  if (!o.labels.empty() || !o.split_file.empty()) return load_any_data(o);
  std::vector<LooseSet> sets;
  if (has_idx_files(o.data)) {
    TrainingData data = read_training_data(o.data, o.class_order);
    sets.push_back({"train", std::move(data.train)});
    sets.push_back({"val", std::move(data.validation)});
    return sets;
  }
  const PartFolders parts = part_folders(o.data);
  if (!parts.train && !parts.validation && !parts.test) {
    class_folders(o.data);  // or it is an Error that there are none
    add_folder(sets, "all", o.data, o.class_order);
  }
  if (parts.train) add_folder(sets, "train", *parts.train, o.class_order);
  if (parts.validation) add_folder(sets, "val", *parts.validation, o.class_order);
  if (parts.test) add_folder(sets, "test", *parts.test, o.class_order);
  return sets;
}

bool is_published(const std::string& model) {
  const auto manifest = read_manifest(shared_file("manifest.json"));
  return find_entry(manifest, "imagenet", model) != nullptr;
}

// Images per second of a training step at a side: measured at a small one, and less by the
// arithmetic at others. Small images keep a device less busy, so larger ones take rather less.
std::function<double(int)> measured_speed(const FinetuneOptions& o, const Ranks& ranks,
                                          int classes) {
  const int side = std::min(128, default_preprocess(o.model).crop);
  const auto work = [model = o.model, classes](int side) {
    return double(multiply_accumulates(
        make_model(model, {.classes = classes, .height = side, .width = side})));
  };
  StepBench bench{.model = o.model, .batch = 8, .image_size = side, .classes = classes};
  bench.steps = 2;
  bench.warmup = 1;
  const double speed = measure_step(bench, ranks).images_per_second;
  return [speed, work, at = work(side)](int side) { return speed * at / work(side); };
}

FinetuneFacts look_around(const FinetuneOptions& o, const std::set<std::string>& given,
                          const Ranks& ranks) {
  const std::vector<LooseSet> sets = look_at(o);
  FinetuneFacts facts{.model = o.model,
                      .model_side = default_preprocess(o.model).crop,
                      .published = is_published(o.model),
                      .ranks = ranks.count(),
                      .gpu = ranks.kind == BackendKind::cuda};
  int classes = 0;
  for (const LooseSet& set : sets) {
    if (set.name == "val") facts.validation = true;
    if (set.name == "test") facts.test = true;
    if (set.name != "train" && set.name != "all") continue;
    facts.images = std::ssize(set.data.samples);
    facts.image_side = typical_side(set.data);
    classes = static_cast<int>(set.data.classes.size());
  }
  if (o.folds) {  // the images of all folds but one train
    int64_t all = 0;
    for (const LooseSet& set : sets)
      if (set.name != "test") all += std::ssize(set.data.samples);
    facts.images = all - all / *o.folds;
    facts.validation = true;
  }
  const fs::path meant =
      !sets.empty() && sets.front().name == "all" ? likely_folder(o.data) : fs::path();
  require(classes != 1 || meant.empty(), Failure::data,
          "{}: a single folder of classes; {} has images to train with: is that meant?",
          o.root().string(), meant.string());
  if (!meant.empty()) facts.part_of = meant.string();
  require(facts.images > 0, Failure::data,
          "{}: no images to train with; they lie in DIR/train/CLASS/… or in DIR/CLASS/…",
          o.root().string());
  if (given.contains("image_size")) facts.side = o.image_size > 0 ? o.image_size : facts.model_side;
  if (given.contains("epochs")) facts.epochs = o.config.epochs;
  if (given.contains("batch_size") && o.batch_size != "auto")
    facts.batch = parse_batch_size(o.batch_size);
  if (given.contains("split")) facts.split = parse_shares(o.split);
  facts.largest_batch = [&ranks, classes, model = o.model](int side) {
    return largest_batch(ranks, model, classes, side);
  };
  if (ranks.kind == BackendKind::cpu) facts.speed = measured_speed(o, ranks, classes);
  return facts;
}

// ---------------------------------------------------------------- what is said and done

void say_choices(const FinetuneOptions& o, const FinetuneRecipe& recipe) {
  say(fmt::format("{}, and what is chosen for it; every flag of engine train chooses otherwise",
                  o.model));
  for (const ChosenFlag& flag : recipe.flags)
    say(fmt::format("  {:<28} {}", flag.name + (flag.value.empty() ? "" : ' ' + flag.value),
                    flag.why));
  for (const std::string& remark : recipe.remarks) say("  " + remark);
}

std::string command_line(const std::vector<std::string>& arguments) {
  std::string text = "engine train";
  for (const std::string& argument : arguments) text += ' ' + shell_word(argument);
  return text;
}

int train_with(const Command& command, std::vector<std::string> arguments) {
  return train({"train", command.about, std::move(arguments)});
}

}  // namespace

int finetune(const Command& command) {
  FinetuneOptions o;
  GeneralOptions general;
  const Flags flags(o, general);
  if (command.facts) return *command.facts = facts_of(flags), 0;
  if (asks_for_help(command)) {
    print_to_stdout("engine finetune" + fmt::format(kHelp, command.about));
    return 0;
  }
  std::set<std::string> given =
      parse_given_flags(flags, command.arguments, read_config(command.arguments));
  set_colour(general.colour);
  if (given.erase("dir")) {
    require(!given.contains("data"), Failure::usage, "DIR and --data are the same; give one");
    o.data = o.folder;
    given.insert("data");
  }
  given.erase("config");
  const bool goes_on = !o.resume.empty() && (o.resume != "auto" || latest_flags(o.out));
  if (goes_on) {  // by its own flags
    if (o.resume == "auto") o.resume = o.out.string(), given.erase("out");
    return train_with(command, words_of(flags, given));
  }
  require(!o.data.empty() || !o.labels.empty(), Failure::usage,
          "which images? engine finetune DIR, with a folder for each class in DIR/train and "
          "DIR/val, or in DIR");
  DeviceOptions alone = o;
  alone.launch = RankLaunch::thread;  // what is measured here
  const Ranks ranks = choose_ranks(alone);
  const FinetuneRecipe recipe = finetune_recipe(look_around(o, given, ranks), given);
  std::vector<std::string> arguments = words_of(flags, given);
  for (const ChosenFlag& flag : recipe.flags) {
    arguments.push_back(flag.name);
    if (!flag.value.empty()) arguments.push_back(flag.value);
  }
  say_choices(o, recipe);
  say("the same by hand:\n  " + command_line(arguments));
  return train_with(command, std::move(arguments));
}

}  // namespace engine
