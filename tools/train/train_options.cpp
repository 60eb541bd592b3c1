#include "tools/train/train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "engine/error.h"
#include "engine/step_launches.h"
#include "models/models.h"
#include "tools/score/decisions.h"

namespace engine {
namespace {

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

// What the ranges of the flags, whose ends are allowed, leave to be said.
void check_recipe(const TrainConfig& c) {
  const auto below = [](std::string_view flag, double value, double end) {
    require(value < end, Failure::usage, "{} {}: it is below {}", flag, value, end);
  };
  below("--beta1", c.optimizer.beta1, 1);
  below("--beta2", c.optimizer.beta2, 1);
  below("--momentum", c.optimizer.momentum, 1);
  below("--alpha", c.optimizer.alpha, 1);
  below("--factor", c.schedule.factor, 1);
  below("--ema", c.ema_decay, 1);
  require(c.optimizer.eps > 0, Failure::usage,
          "--eps {}: it is above 0, else a gradient of 0 is divided by 0", c.optimizer.eps);
}

std::string name_in(const auto& choices, auto value) {
  return std::string(
      std::ranges::find_if(choices, [&](const auto& c) { return c.value == value; })->name);
}

}  // namespace

std::vector<std::string> flags_without_effect(const TrainConfig& c) {
  using Kind = OptimizerConfig::Kind;
  using Shape = ScheduleConfig::Kind;
  const OptimizerConfig& o = c.optimizer;
  const ScheduleConfig& s = c.schedule;
  const TrainConfig usual;
  const bool adam = o.kind == Kind::adam || o.kind == Kind::adamw, sgd = o.kind == Kind::sgd,
             rms = o.kind == Kind::rmsprop;
  const bool warm = s.warmup_epochs > 0 || s.warmup_steps > 0;
  const std::string optimizer = "--optimizer " + name_in(kOptimizers, o.kind),
                    schedule = "--schedule " + name_in(kSchedules, s.kind);
  std::vector<std::string> lines;
  const auto tell = [&](const char* flag, bool given, bool used, const std::string& beside) {
    if (given && !used) lines.push_back(fmt::format("{}: no effect with {}", flag, beside));
  };
  tell("--beta1", o.beta1 != usual.optimizer.beta1, adam, optimizer);
  tell("--beta2", o.beta2 != usual.optimizer.beta2, adam, optimizer);
  tell("--eps", o.eps != usual.optimizer.eps, !sgd, optimizer);
  tell("--momentum", o.momentum != usual.optimizer.momentum, sgd || rms, optimizer);
  tell("--nesterov", o.nesterov, sgd, optimizer);
  tell("--alpha", o.alpha != usual.optimizer.alpha, rms, optimizer);
  const bool drops = s.kind == Shape::step, fades = drops || s.kind == Shape::exponential;
  const bool cycle = s.kind == Shape::one_cycle, plateau = s.kind == Shape::plateau;
  tell("--gamma", s.gamma != usual.schedule.gamma, fades, schedule);
  tell("--every", s.every != usual.schedule.every, drops, schedule);
  tell("--least-lr", s.least != usual.schedule.least, s.kind == Shape::cosine, schedule);
  tell("--rise", s.rise != usual.schedule.rise, cycle, schedule);
  tell("--divisor", s.divisor != usual.schedule.divisor, cycle, schedule);
  tell("--final-divisor", s.final_divisor != usual.schedule.final_divisor, cycle, schedule);
  tell("--patience", s.patience != usual.schedule.patience, plateau, schedule);
  tell("--factor", s.factor != usual.schedule.factor, plateau, schedule);
  tell("--warmup-factor", s.warmup_factor != usual.schedule.warmup_factor, warm,
       "no --warmup-epochs and no --warmup-steps");
  return lines;
}

TrainConfig train_config(const TrainOptions& o, const Ranks& ranks) {
  TrainConfig c = o.config;
  c.model = o.model;
  c.augment = augment_config(o);
  c.precision = ranks.precision;
  c.conv = o.conv;
  c.deterministic = o.deterministic;
  c.workspace = size_t(o.workspace) << 20;
  c.workers = ranks.workers;
  c.on_bad_image = o.on_bad_image;
  c.growth = parse_growth(o.progressive_size);
  c.early_stop.watched();
  parse_threshold_rule(c.threshold_rule);
  c.schedule.rising = c.early_stop.plateau().figure != Watch::Figure::loss;
  check_recipe(c);
  check_buckets(c.exchange.buckets, c.precision, ranks.kind);
  return c;
}

int parse_batch_size(const std::string& text) {
  return parse_number("--batch-size", text, text, 65536);
}

void check_model(const TrainConfig& c) {
  const auto of_size = [&](int size) {
    return make_model(c.model, {.height = size, .width = size});
  };
  const Graph last = of_size(c.preprocess.crop);
  parameter_rule(c.rules, last, 0);
  if (c.growth.last == 0) return;
  const Graph first = of_size(c.growth.first);
  for (size_t p = 0; p < last.parameters.size(); ++p)
    require(first.parameters[p].shape == last.parameters[p].shape, Failure::usage,
            "--progressive-size {}:{}: {} of {} is {} first and {} last", c.growth.first,
            c.growth.last, last.parameters[p].name, c.model, to_string(first.parameters[p].shape),
            to_string(last.parameters[p].shape));
}

}  // namespace engine
