// What a training is asked to do, whatever computes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/loss.h"
#include "engine/optimizer.h"
#include "engine/plan.h"
#include "engine/schedule.h"
#include "io/data/loader.h"
#include "io/images/augment.h"
#include "io/images/preprocess.h"
#include "tools/machine/exchange.h"
#include "tools/train/early_stop.h"
#include "tools/train/parameter_rules.h"
#include "tools/train/test_fault.h"

namespace engine {

// The side of the images grows over the run, in four stages of equal length (EfficientNetV2,
// algorithm 1) and in multiples of 32. Each change rebuilds the session and moves the state over,
// which takes as long as the start of a run.
struct SizeGrowth {
  int first = 0, last = 0;  // both 0: the images do not grow
};

// The side of the images in an epoch, counted from 0; `size` where they do not grow.
int image_size(const SizeGrowth& growth, int size, int epoch, int epochs);

struct TrainConfig {
  std::string model;
  std::optional<double> norm_epsilon;  // of the weights to start from; none: the model's
  Preprocess preprocess;
  AugmentConfig augment = preset(Augment::light);
  bool fast_decode = false;
  OnBadImage on_bad_image = OnBadImage::error;
  bool balanced = false;  // the sampler takes every class equally often
  int epochs = 10, batch = 64;
  int accumulate = 1;            // batches of each rank in one update
  int64_t max_steps = 0;         // 0: no limit
  int64_t checkpoint_every = 0;  // steps; 0: checkpoints are saved after epochs only
  double max_minutes = 0;        // of training, without interruptions; 0: no limit
  int keep = 2;                  // checkpoints
  int log_every = 50;            // updates between log events
  uint64_t seed = 0;
  ScheduleConfig schedule;
  EarlyStopConfig early_stop;
  SizeGrowth growth;
  OptimizerConfig optimizer;
  RuleOptions rules;
  double ema_decay = 0;  // 0: no averages; else these are validated and kept as weights
  bool frozen_norms = false;
  bool published_head = false;  // a new head by the model's own rule, not as torch.nn.Linear
  bool detect_anomaly = false;  // look at every result of every step
  Exchange exchange;
  LossConfig loss;
  Precision precision = Precision::fp32;
  ConvForm conv = ConvForm::automatic;
  MemoryUse memory = MemoryUse::fast;
  bool deterministic = false;
  size_t workspace = size_t{256} << 20;  // bytes
  float loss_scale = 65536;
  int workers = 1;  // loading threads of each rank
  TestFault fault;  // what a test makes go wrong
  // How thresholds are chosen when training is done, as parse_threshold_rule() reads it.
  std::string threshold_rule = "youden";
  double reject_accuracy = 0.95;  // of validation images at the threshold of --reject
};

}  // namespace engine
