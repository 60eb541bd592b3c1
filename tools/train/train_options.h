// The flags of engine train, and the configuration that they make.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/cli/options.h"
#include "tools/data/augment_options.h"
#include "tools/data/data_options.h"
#include "tools/data/preprocess_options.h"
#include "tools/machine/device.h"
#include "tools/score/model_file.h"
#include "tools/train/recipe.h"
#include "tools/train/train_config.h"

namespace engine {

inline constexpr Choice<bool> kSamplers[] = {{"shuffle", false}, {"balanced", true}};
// Values of TrainConfig::published_head.
inline constexpr Choice<bool> kHeadStarts[] = {{"linear", false}, {"torchvision", true}};

struct TrainOptions : DataOptions,
                      DeviceOptions,
                      PreprocessOptions,
                      AugmentOptions,
                      WeightsKeyOption {
  std::filesystem::path out, weights;
  std::string model = "efficientnet_b3", batch_size = "64", progressive_size, resume;
  int image_size = 0, lr_find_steps = 100;
  std::string weighting = "none", positive_weighting = "none";
  std::string by;  // read_columns()
  bool lr_find = false, plan_only = false;
  TrainConfig config;

  void visit(auto& v) {
    visit_data(v);
    v("--fast-decode", config.fast_decode, "decode large JPEGs at reduced size, in training only");
    v.group("Model");
    v("--model NAME", model, "what to train", known_models());
    v("--weights FILE|NAME", weights,
      "to start from: safetensors, .pth, a run, imagenet or a name of engine weights list, which "
      "is fetched; a head of another size or other classes starts anew",
      kMayChange);
    visit_weights_key(v);
    v("--head-init NAME", config.published_head,
      "a new head starts as torch.nn.Linear, ±1/√inputs; torchvision: by its rule for the model",
      kHeadStarts, kMayChange);
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
      "shuffle; balanced: takes every class equally often, with repetition", kSamplers);
    v("--label-smoothing, --smoothing X", config.loss.smoothing,
      "as torch.nn.CrossEntropyLoss; of several labels targets are X/2 and 1 − X/2",
      Within{0, 0.999});
    v("--class-weights none|auto|FILE", weighting,
      "of the loss; auto: images / (classes · images of the class); FILE: a CSV, class,weight");
    v("--positive-weights none|auto|FILE", positive_weighting,
      "of several labels, as pos_weight of torch.nn.BCEWithLogitsLoss; auto: images without the "
      "label / images with it; FILE: a CSV, label,weight");
    v("--ema, --model-ema-decay X", config.ema_decay,
      "average the weights with this decay; the averages are validated and kept (0: no)",
      Within{0, 1});
    v("--freeze-norms", config.frozen_norms, "batch norms use the running statistics, which stay");
    visit_optimizer(v, config.optimizer, config.rules);
    visit_schedule(v, config.schedule);
    v("--lr-find", lr_find,
      "look for a learning rate instead of training: lr_find.csv, and a rate to try", kMayChange);
    v("--lr-find-steps N", lr_find_steps, "of --lr-find", Within{10, 100000}, kMayChange);
    visit_early_stop(v, config.early_stop);
    v("--threshold-rule RULE", config.threshold_rule,
      "from which probability on a class is called present, chosen on validation when training is "
      "done: youden, sensitivity@S or specificity@S",
      Suggest{{"youden", "sensitivity@0.9", "specificity@0.9"}}, kMayChange);
    v("--reject-accuracy X", config.reject_accuracy,
      "which share of validation images, or of their labels where they have several, must be right "
      "for their probability to be answered: predict --reject withholds what lies below",
      Within{0, 1}, kMayChange);
    v("--by COLUMN,...", by, "score the best weights by these columns of --labels, too",
      kMayChange);
    v.group("Run");
    v("--out, --output DIR", out, "run directory (default: runs/MODEL-DATE-TIME)", kMayChange);
    v("--max-steps N", config.max_steps, "stop after that many steps (0: no limit)", Within{0},
      kMayChange);
    v("--max-time MINUTES", config.max_minutes,
      "stop after that much training, interruptions left out (0: no limit)", Within{0}, kMayChange);
    v("--checkpoint-every N", config.checkpoint_every,
      "steps between checkpoints (0: one per epoch)", Within{0}, kMayChange);
    v("--keep N", config.keep, "checkpoints that are kept, the newest ones", Within{1, 1000000},
      kMayChange);
    v("--log-every N", config.log_every, "steps between lines of metrics.jsonl", Within{1, 1000000},
      kMayChange);
    v("--resume auto|PATH", resume,
      "go on with the run in that folder, or from that checkpoint, with its flags but for those "
      "that "
      "are given; auto: with the run in --out if there is one, with the flags that are given",
      kMayChange);
    v("--detect-anomaly", config.detect_anomaly,
      "look for NaN and infinity in every output and gradient of every step, and end at the first; "
      "slow",
      kMayChange);
    v("--dry-run", plan_only, "print plan, arithmetic, memory and a time estimate; train nothing");
    visit_augment(v);
    visit_preprocess(v);
    visit_device(v);
    visit_memory(v, config.memory);
    visit_ranks(v);
    visit_exchange(v, config.exchange);
  }
};

// The configuration but for what the data and a file to start from decide: preprocessing, batch and
// class weights. Error(usage) for flags that are malformed or contradict each other.
TrainConfig train_config(const TrainOptions& options, const Ranks& ranks);

// A line for each flag of another optimizer or schedule than the chosen one.
std::vector<std::string> flags_without_effect(const TrainConfig& config);

// The number that --batch-size gives, unless it is "auto".
int parse_batch_size(const std::string& text);

// Checks what can be told before anything that takes long. Error(usage) where the weights of
// growing images would not stay the same, or where --freeze names no parameter.
void check_model(const TrainConfig& config);

}  // namespace engine
