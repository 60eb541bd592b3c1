// ResNet 18/34/50/101/152 (He et al., CVPR 2016), as torchvision builds it (v1.5): the stride of a
// bottleneck is in its 3x3 convolution, batch norm has eps 1e-5 and momentum 0.1, and no gain
// starts at 0. What a block leaves in memory is its sum; whoever reads it takes the ReLU.
#include <algorithm>
#include <string>

#include "engine/error.h"
#include "models/models.h"

namespace engine {
namespace {

struct ResNet {
  std::string_view name;
  bool bottleneck;
  int blocks[4];
};

constexpr ResNet kResNets[] = {
    // table 1 of the paper
    {"resnet18", false, {2, 2, 2, 2}},  {"resnet34", false, {3, 4, 6, 3}},
    {"resnet50", true, {3, 4, 6, 3}},   {"resnet101", true, {3, 4, 23, 3}},
    {"resnet152", true, {3, 8, 36, 3}},
};

constexpr int kStemWidth = 64;
constexpr int kExpansion = 4;  // of a bottleneck

// A residual branch without the last activation.
Value branch(Graph& g, Value v, const std::string& name, bool bottleneck, int width, int stride) {
  int part = 1;
  const auto conv_bn = [&](const ConvOptions& options) {
    const std::string number = std::to_string(part++);
    v = g.batch_norm(g.conv(v, name + ".conv" + number, options), name + ".bn" + number);
  };
  const auto conv_bn_relu = [&](const ConvOptions& options) {
    conv_bn(options);
    v = g.relu(v);
  };
  if (bottleneck) {
    conv_bn_relu({.out = width});
    conv_bn_relu({.out = width, .kernel = 3, .stride = stride});
    conv_bn({.out = kExpansion * width});
  } else {
    conv_bn_relu({.out = width, .kernel = 3, .stride = stride});
    conv_bn({.out = width, .kernel = 3});
  }
  return v;
}

// The shortcut comes first, so that its gradient, of one pixel of four, is added to the branch's.
Value block(Graph& g, Value x, const std::string& name, bool bottleneck, int width, int stride) {
  const int out = bottleneck ? kExpansion * width : width;
  Value shortcut = x;
  if (stride != 1 || x.channels != out) {
    shortcut = g.conv(x, name + ".downsample.0", {.out = out, .stride = stride});
    shortcut = g.batch_norm(shortcut, name + ".downsample.1");
  }
  const Value y = branch(g, x, name, bottleneck, width, stride);
  return g.add(y, shortcut, name + ".add", Activation::relu);
}

}  // namespace

Graph resnet(std::string_view name, const ModelOptions& options) {
  const auto* variant = std::find_if(std::begin(kResNets), std::end(kResNets),
                                     [&](const ResNet& v) { return v.name == name; });
  require(variant != std::end(kResNets), Failure::usage, "no model {}", name);

  Graph g(std::string(name), options.norm_epsilon.value_or(1e-5), 0.1);
  g.initialisation = {.conv = Initialisation::Weight::normal_fan_out, .zero_bias = false};
  Value v = g.conv(g.input(options.height, options.width, 3), "conv1",
                   {.out = kStemWidth, .kernel = 7, .stride = 2});
  v = g.max_pool(g.relu(g.batch_norm(v, "bn1")), "maxpool", 3, 2, 1);
  for (int stage = 0; stage < 4; ++stage)
    for (int b = 0; b < variant->blocks[stage]; ++b) {
      const std::string at = "layer" + std::to_string(stage + 1) + "." + std::to_string(b);
      v = block(g, v, at, variant->bottleneck, kStemWidth << stage, stage > 0 && b == 0 ? 2 : 1);
    }
  g.cross_entropy(g.linear(g.global_pool(v, "avgpool"), "fc", options.classes));
  return g;
}

}  // namespace engine
