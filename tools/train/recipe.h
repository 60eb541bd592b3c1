// The flags of a training recipe, by group; what they set belongs to engine/.
#pragma once

#include "engine/optimizer.h"
#include "engine/schedule.h"
#include "tools/cli/options.h"
#include "tools/train/early_stop.h"
#include "tools/train/parameter_rules.h"

namespace engine {

inline constexpr Choice<OptimizerConfig::Kind> kOptimizers[] = {
    {"adam", OptimizerConfig::Kind::adam},
    {"adamw", OptimizerConfig::Kind::adamw},
    {"sgd", OptimizerConfig::Kind::sgd},
    {"rmsprop", OptimizerConfig::Kind::rmsprop}};

void visit_optimizer(auto& v, OptimizerConfig& c, RuleOptions& rules) {
  v.group("Optimizer");
  v("--optimizer, --opt NAME", c.kind, "as PyTorch's", kOptimizers);
  v("--beta1 X", c.beta1, "of adam and adamw", Within{0, 1});
  v("--beta2 X", c.beta2, "of adam and adamw", Within{0, 1});
  v("--eps, --opt-eps X", c.eps, "of all but sgd", Within{0, 1});
  v("--momentum X", c.momentum, "of sgd and rmsprop", Within{0, 1});
  v("--nesterov", c.nesterov, "of sgd");
  v("--alpha X", c.alpha, "of rmsprop", Within{0, 1});
  v("--weight-decay, --wd X", c.weight_decay, "added to the gradient; adamw: beside the step",
    Within{0, 1});
  v("--decay-all", rules.decay_all, "norms and biases decay too, as in PyTorch by default");
  v("--clip-norm, --clip-grad X", c.clip_norm, "largest norm of all gradients together (0: any)",
    Within{0});
  v("--freeze PREFIX,...", rules.freeze, "parameters whose names begin so stay as they are");
  v("--layer-decay X", rules.layer_decay, "factor on the rate for each layer below the head",
    Within{0, 1});
  v("--backbone-lr-factor X", rules.backbone_factor,
    "factor on the rate of all layers but the head, which is new and has more to learn",
    Within{0, 1000});
  v("--freeze-epochs N", rules.freeze_epochs,
    "epochs at the beginning in which the head alone learns", Within{0, 100000});
}

inline constexpr Choice<ScheduleConfig::Kind> kSchedules[] = {
    {"constant", ScheduleConfig::Kind::constant},
    {"cosine", ScheduleConfig::Kind::cosine},
    {"step", ScheduleConfig::Kind::step},
    {"exponential", ScheduleConfig::Kind::exponential},
    {"one-cycle", ScheduleConfig::Kind::one_cycle},
    {"plateau", ScheduleConfig::Kind::plateau}};
inline constexpr Choice<ScheduleConfig::Unit> kScheduleUnits[] = {
    {"epoch", ScheduleConfig::Unit::epoch}, {"step", ScheduleConfig::Unit::step}};

void visit_schedule(auto& v, ScheduleConfig& c) {
  v.group("Learning rate");
  v("--lr RATE", c.learning_rate, "where it begins; the peak of one-cycle", Within{0, 1000});
  v("--schedule, --sched NAME", c.kind,
    "as torch.optim.lr_scheduler's; plateau: × factor when the validation loss, or what --watch "
    "names, stands still",
    kSchedules);
  v("--schedule-by UNIT", c.unit, "what cosine, step and exponential count", kScheduleUnits);
  v("--warmup-epochs X", c.warmup_epochs, "linear warm-up before the schedule", Within{0, 100000});
  v("--warmup-steps N", c.warmup_steps, "the same in steps; the rate rises with every step",
    Within{0});
  v("--warmup-factor X", c.warmup_factor, "of the first rate, where a warm-up begins",
    Within{0, 1});
  v("--least-lr, --min-lr RATE", c.least, "where cosine ends", Within{0, 1000});
  v("--gamma X", c.gamma, "factor of step and exponential", Within{0, 1});
  v("--every, --decay-epochs N", c.every, "epochs or steps between the drops of step",
    Within{1, 1 << 30});
  v("--rise X", c.rise, "part of one-cycle in which the rate rises", Within{0, 1});
  v("--divisor X", c.divisor, "one-cycle begins at the peak's part of this", Within{1, 1e12});
  v("--final-divisor X", c.final_divisor, "and ends at that rate's part of this", Within{1, 1e12});
  v("--patience N", c.patience, "epochs without improvement that plateau tolerates",
    Within{0, 100000});
  v("--factor X", c.factor, "of plateau", Within{0, 1});
}

void visit_early_stop(auto& v, EarlyStopConfig& c) {
  v.group("Best epoch");
  v("--watch NAME", c.watch,
    "what of the validation decides which weights are the best, when plateau lowers the rate and "
    "when training stops early: top1, loss, auc, ap (average precision), f1, balanced (mean "
    "recall), sensitivity@SPECIFICITY (of two classes for the second, else the macro mean) or "
    "CLASS:recall (default: top1, by plateau and of several labels loss)",
    Suggest{
        {"top1", "loss", "auc", "ap", "f1", "balanced", "sensitivity@0.9", "sensitivity@0.95"}});
  v("--early-stop, --early-stopping N", c.patience,
    "end after N epochs without improvement (0: never); the best weights are what is kept",
    Within{0, 100000});
  v("--min-delta X", c.min_delta, "a smaller improvement is none", Within{0});
}

}  // namespace engine
