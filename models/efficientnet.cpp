// EfficientNet B0–B7 (Tan & Le, ICML 2019), as torchvision builds it: padding is symmetric, the
// squeeze width comes from the block's input, stochastic depth grows linearly to 0.2, and batch
// norm has eps 1e-5 and momentum 0.1 (B5–B7: 1e-3 and 0.01).
#include <algorithm>
#include <cmath>
#include <string>

#include "engine/error.h"
#include "models/models.h"

namespace engine {
namespace {

struct Stage {
  int expand, kernel, stride, channels, repeats;
};

constexpr Stage kStages[] = {
    // table 1 of the paper, stages 2–8 of B0
    {1, 3, 1, 16, 1},  {6, 3, 2, 24, 2},  {6, 5, 2, 40, 2},  {6, 3, 2, 80, 3},
    {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4}, {6, 3, 1, 320, 1},
};

struct Scaling {
  std::string_view name;
  double width, depth;
  float dropout;
  double eps, momentum;
};

constexpr Scaling kScalings[] = {
    {"efficientnet_b0", 1.0, 1.0, 0.2f, 1e-5, 0.1},
    {"efficientnet_b1", 1.0, 1.1, 0.2f, 1e-5, 0.1},
    {"efficientnet_b2", 1.1, 1.2, 0.3f, 1e-5, 0.1},
    {"efficientnet_b3", 1.2, 1.4, 0.3f, 1e-5, 0.1},
    {"efficientnet_b4", 1.4, 1.8, 0.4f, 1e-5, 0.1},
    {"efficientnet_b5", 1.6, 2.2, 0.4f, 1e-3, 0.01},
    {"efficientnet_b6", 1.8, 2.6, 0.5f, 1e-3, 0.01},
    {"efficientnet_b7", 2.0, 3.1, 0.5f, 1e-3, 0.01},
};

constexpr int kStem = 32;
constexpr float kStochasticDepth = 0.2f;

// Rounds to a multiple of 8, but never to more than 10% below.
int round_channels(double channels) {
  const int rounded = std::max(8, static_cast<int>(channels + 4) / 8 * 8);
  return rounded < 0.9 * channels ? rounded + 8 : rounded;
}

int scale_repeats(int repeats, double depth) {
  return static_cast<int>(std::ceil(repeats * depth));
}

Value conv_bn(Graph& g, Value v, const std::string& name, const ConvOptions& options) {
  return g.batch_norm(g.conv(v, name + ".0", options), name + ".1");
}

Value conv_bn_silu(Graph& g, Value v, const std::string& name, const ConvOptions& options) {
  return g.silu(conv_bn(g, v, name, options));
}

Value mbconv(Graph& g, Value x, const std::string& name, const Stage& s, float drop) {
  const int wide = round_channels(x.channels * s.expand);
  int part = 0;
  const auto next = [&] { return name + ".block." + std::to_string(part++); };
  Value y = x;
  if (s.expand != 1) y = conv_bn_silu(g, y, next(), {.out = wide});
  y = conv_bn_silu(g, y, next(),
                   {.out = wide, .kernel = s.kernel, .stride = s.stride, .depthwise = true});
  y = g.scale(y, g.squeeze_excite(y, next(), std::max(1, x.channels / 4)));
  y = conv_bn(g, y, next(), {.out = s.channels});
  if (s.stride != 1 || x.channels != s.channels) return y;
  return g.add(g.stochastic_depth(y, name + ".stochastic_depth", drop), x, name + ".add");
}

}  // namespace

Graph efficientnet(std::string_view name, const ModelOptions& options) {
  const auto* scaling = std::find_if(std::begin(kScalings), std::end(kScalings),
                                     [&](const Scaling& s) { return s.name == name; });
  require(scaling != std::end(kScalings), Failure::usage, "no model {}", name);
  int blocks = 0, block = 0;
  for (const Stage& s : kStages) blocks += scale_repeats(s.repeats, scaling->depth);

  Graph g(std::string(name), options.norm_epsilon.value_or(scaling->eps), scaling->momentum);
  g.initialisation = {.conv = Initialisation::Weight::normal_fan_out,
                      .linear = Initialisation::Weight::uniform_out};
  Value v = g.input(options.height, options.width, 3);
  v = conv_bn_silu(g, v, "features.0",
                   {.out = round_channels(kStem * scaling->width), .kernel = 3, .stride = 2});
  for (int i = 0; i < static_cast<int>(std::size(kStages)); ++i) {
    Stage s = kStages[i];
    s.channels = round_channels(s.channels * scaling->width);
    const int repeats = scale_repeats(s.repeats, scaling->depth);
    for (int r = 0; r < repeats; ++r, ++block) {
      const float drop = options.stochastic_depth ? kStochasticDepth * block / blocks : 0.f;
      v = mbconv(g, v, "features." + std::to_string(i + 1) + "." + std::to_string(r), s, drop);
      s.stride = 1;
    }
  }
  v = conv_bn_silu(g, v, "features.8", {.out = 4 * v.channels});
  v = g.dropout(g.global_pool(v, "avgpool"), "classifier.0",
                options.dropout ? scaling->dropout : 0.f);
  g.cross_entropy(g.linear(v, "classifier.1", options.classes));
  return g;
}

}  // namespace engine
