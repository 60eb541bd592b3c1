#include "tools/train/train_options.h"

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

}  // namespace

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
