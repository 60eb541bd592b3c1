// EfficientNet B0–B7 (Tan & Le, ICML 2019) and EfficientNetV2-S/M (Tan & Le, ICML 2021), as
// torchvision builds them: padding is symmetric, the squeeze width comes from the block's input,
// stochastic depth grows linearly to 0.2, and batch norm has eps 1e-5 and momentum 0.1 (B5–B7: 1e-3
// and 0.01; V2: 1e-3 and 0.1).
#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "engine/error.h"
#include "models/models.h"

namespace engine {
namespace {

struct Stage {
  int expand, kernel, stride, channels, repeats;
  bool fused = false;  // a dense convolution expands, and nothing squeezes
};

constexpr Stage kStages[] = {
    // table 1 of the paper, stages 2–8 of B0
    {1, 3, 1, 16, 1},  {6, 3, 2, 24, 2},  {6, 5, 2, 40, 2},  {6, 3, 2, 80, 3},
    {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4}, {6, 3, 1, 320, 1},
};

constexpr Stage kStagesV2S[] = {
    // table 4 of the second paper, stages 1–6
    {1, 3, 1, 24, 2, true}, {4, 3, 2, 48, 4, true}, {4, 3, 2, 64, 4, true},
    {4, 3, 2, 128, 6},      {6, 3, 1, 160, 9},      {6, 3, 2, 256, 15},
};

constexpr Stage kStagesV2M[] = {
    {1, 3, 1, 24, 3, true}, {4, 3, 2, 48, 5, true}, {4, 3, 2, 80, 5, true}, {4, 3, 2, 160, 7},
    {6, 3, 1, 176, 14},     {6, 3, 2, 304, 18},     {6, 3, 1, 512, 5},
};

struct EfficientNet {
  std::string_view name;
  std::span<const Stage> stages;
  int stem, head;  // head 0: four times the last stage's channels
  double width, depth;
  float dropout;
  double eps, momentum;
};

constexpr EfficientNet kEfficientNets[] = {
    {"efficientnet_b0", kStages, 32, 0, 1.0, 1.0, 0.2f, 1e-5, 0.1},
    {"efficientnet_b1", kStages, 32, 0, 1.0, 1.1, 0.2f, 1e-5, 0.1},
    {"efficientnet_b2", kStages, 32, 0, 1.1, 1.2, 0.3f, 1e-5, 0.1},
    {"efficientnet_b3", kStages, 32, 0, 1.2, 1.4, 0.3f, 1e-5, 0.1},
    {"efficientnet_b4", kStages, 32, 0, 1.4, 1.8, 0.4f, 1e-5, 0.1},
    {"efficientnet_b5", kStages, 32, 0, 1.6, 2.2, 0.4f, 1e-3, 0.01},
    {"efficientnet_b6", kStages, 32, 0, 1.8, 2.6, 0.5f, 1e-3, 0.01},
    {"efficientnet_b7", kStages, 32, 0, 2.0, 3.1, 0.5f, 1e-3, 0.01},
    {"efficientnet_v2_s", kStagesV2S, 24, 1280, 1.0, 1.0, 0.2f, 1e-3, 0.1},
    {"efficientnet_v2_m", kStagesV2M, 24, 1280, 1.0, 1.0, 0.3f, 1e-3, 0.1},
};

constexpr float kStochasticDepth = 0.2f;

// Rounds to a multiple of 8, but never to more than 10% below.
int round_channels(double channels) {
  const int rounded = std::max(8, static_cast<int>(channels + 4) / 8 * 8);
  return rounded < 0.9 * channels ? rounded + 8 : rounded;
}

// The stages of a variant, by its width and depth.
std::vector<Stage> scaled_stages(const EfficientNet& variant) {
  std::vector<Stage> stages(variant.stages.begin(), variant.stages.end());
  for (Stage& s : stages) {
    s.channels = round_channels(s.channels * variant.width);
    s.repeats = static_cast<int>(std::ceil(s.repeats * variant.depth));
  }
  return stages;
}

Value conv_bn(Graph& g, Value v, const std::string& name, const ConvOptions& options) {
  return g.batch_norm(g.conv(v, name + ".0", options), name + ".1");
}

Value conv_bn_silu(Graph& g, Value v, const std::string& name, const ConvOptions& options) {
  return g.silu(conv_bn(g, v, name, options));
}

Value mbconv_branch(Graph& g, Value x, const std::string& name, const Stage& s) {
  const int wide = round_channels(x.channels * s.expand);
  int part = 0;
  const auto next = [&] { return name + ".block." + std::to_string(part++); };
  Value y = x;
  if (s.expand != 1) y = conv_bn_silu(g, y, next(), {.out = wide});
  y = conv_bn_silu(g, y, next(),
                   {.out = wide, .kernel = s.kernel, .stride = s.stride, .depthwise = true});
  y = g.scale(y, g.squeeze_excite(y, next(), std::max(1, x.channels / 4)));
  return conv_bn(g, y, next(), {.out = s.channels});
}

// Without an expansion it is one convolution, whose activation stays.
Value fused_mbconv_branch(Graph& g, Value x, const std::string& name, const Stage& s) {
  const bool expands = s.expand != 1;
  const int wide = expands ? round_channels(x.channels * s.expand) : s.channels;
  const Value y =
      conv_bn_silu(g, x, name + ".block.0", {.out = wide, .kernel = s.kernel, .stride = s.stride});
  return expands ? conv_bn(g, y, name + ".block.1", {.out = s.channels}) : y;
}

Value block(Graph& g, Value x, const std::string& name, const Stage& s, float drop) {
  const Value y = (s.fused ? fused_mbconv_branch : mbconv_branch)(g, x, name, s);
  if (s.stride != 1 || x.channels != s.channels) return y;
  return g.add(g.stochastic_depth(y, name + ".stochastic_depth", drop), x, name + ".add");
}

}  // namespace

Graph efficientnet(std::string_view name, const ModelOptions& options) {
  const auto* variant = std::find_if(std::begin(kEfficientNets), std::end(kEfficientNets),
                                     [&](const EfficientNet& v) { return v.name == name; });
  require(variant != std::end(kEfficientNets), Failure::usage, "no model {}", name);
  const std::vector<Stage> stages = scaled_stages(*variant);
  int blocks = 0, at = 0;
  for (const Stage& s : stages) blocks += s.repeats;

  Graph g(std::string(name), options.norm_epsilon.value_or(variant->eps), variant->momentum);
  g.initialisation = {.conv = Initialisation::Weight::normal_fan_out,
                      .linear = Initialisation::Weight::uniform_out};
  int part = 0;
  const auto next = [&] { return "features." + std::to_string(part++); };
  Value v = g.input(options.height, options.width, 3);
  v = conv_bn_silu(
      g, v, next(),
      {.out = round_channels(variant->stem * variant->width), .kernel = 3, .stride = 2});
  for (Stage s : stages) {
    const std::string stage = next();
    for (int r = 0; r < s.repeats; ++r, ++at, s.stride = 1) {
      const float drop = options.stochastic_depth ? kStochasticDepth * at / blocks : 0.f;
      v = block(g, v, stage + "." + std::to_string(r), s, drop);
    }
  }
  v = conv_bn_silu(g, v, next(), {.out = variant->head > 0 ? variant->head : 4 * v.channels});
  v = g.dropout(g.global_pool(v, "avgpool"), "classifier.0",
                options.dropout ? variant->dropout : 0.f);
  g.cross_entropy(g.linear(v, "classifier.1", options.classes));
  return g;
}

}  // namespace engine
