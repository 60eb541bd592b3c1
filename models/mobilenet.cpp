// MobileNetV2 (Sandler et al., CVPR 2018), as torchvision builds it at width 1: it has ReLU6,
// symmetric padding, dropout 0.2 before the head, and batch norm with eps 1e-5 and momentum 0.1.
#include <string>

#include "models/models.h"

namespace engine {
namespace {

struct Bottlenecks {
  int expand, channels, repeats, stride;
};

constexpr Bottlenecks kBottlenecks[] = {
    // table 2 of the paper, the bottlenecks
    {1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2},  {6, 64, 4, 2},
    {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1},
};

constexpr int kStem = 32, kHead = 1280;

// Adds a convolution, its norm and ReLU6, which are the parts 0 and 1 of `name`.
Value conv_bn_relu6(Graph& g, Value v, const std::string& name, const ConvOptions& options) {
  return g.relu6(g.batch_norm(g.conv(v, name + ".0", options), name + ".1"));
}

Value inverted_residual(Graph& g, Value x, const std::string& name, const Bottlenecks& s) {
  const int wide = x.channels * s.expand;
  int part = 0;
  const auto next = [&] { return name + ".conv." + std::to_string(part++); };
  Value y = x;
  if (s.expand != 1) y = conv_bn_relu6(g, y, next(), {.out = wide});
  y = conv_bn_relu6(g, y, next(),
                    {.out = wide, .kernel = 3, .stride = s.stride, .depthwise = true});
  y = g.conv(y, next(), {.out = s.channels});
  y = g.batch_norm(y, next());
  if (s.stride != 1 || x.channels != s.channels) return y;
  return g.add(y, x, name + ".add");
}

}  // namespace

Graph mobilenet(std::string_view name, const ModelOptions& options) {
  Graph g(std::string(name), options.norm_epsilon.value_or(1e-5), 0.1);
  g.initialisation = {.conv = Initialisation::Weight::normal_fan_out,
                      .linear = Initialisation::Weight::normal_small};
  Value v = g.input(options.height, options.width, 3);
  v = conv_bn_relu6(g, v, "features.0", {.out = kStem, .kernel = 3, .stride = 2});
  int block = 1;
  for (Bottlenecks s : kBottlenecks)
    for (int r = 0; r < s.repeats; ++r, s.stride = 1)
      v = inverted_residual(g, v, "features." + std::to_string(block++), s);
  v = conv_bn_relu6(g, v, "features." + std::to_string(block), {.out = kHead});
  v = g.dropout(g.global_pool(v, "avgpool"), "classifier.0", options.dropout ? 0.2f : 0.f);
  g.cross_entropy(g.linear(v, "classifier.1", options.classes));
  return g;
}

}  // namespace engine
