// DenseNet-BC 121/161/169/201 (Huang et al., CVPR 2017), as torchvision builds it: growth, a
// bottleneck of 4, transitions that halve the channels, and no dropout. A block is one shared
// buffer, in which outputs are placed instead of concatenated. A transition pools before its
// convolution: both are linear and act on different axes, so the result is the same and costs a
// quarter.
#include <algorithm>
#include <string>

#include "engine/error.h"
#include "models/models.h"

namespace engine {
namespace {

struct DenseNet {
  std::string_view name;
  int growth, blocks[4], stem;
};

constexpr DenseNet kDenseNets[] = {
    // table 1 of the paper
    {"densenet121", 32, {6, 12, 24, 16}, 64},
    {"densenet161", 48, {6, 12, 36, 24}, 96},
    {"densenet169", 32, {6, 12, 32, 32}, 64},
    {"densenet201", 32, {6, 12, 48, 32}, 64},
};

constexpr int kBottleneck = 4;

void dense_layer(Graph& g, int dense, const std::string& name, int growth) {
  Value v = g.relu(g.batch_norm(g.placed(dense), name + ".norm1"));
  v = g.conv(v, name + ".conv1", {.out = kBottleneck * growth});
  v = g.relu(g.batch_norm(v, name + ".norm2"));
  g.conv(v, name + ".conv2", {.out = growth, .kernel = 3, .into = dense});
}

}  // namespace

Graph densenet(std::string_view name, const ModelOptions& options) {
  const auto* variant = std::find_if(std::begin(kDenseNets), std::end(kDenseNets),
                                     [&](const DenseNet& v) { return v.name == name; });
  require(variant != std::end(kDenseNets), Failure::usage, "no model {}", name);

  Graph g(std::string(name), options.norm_epsilon.value_or(1e-5), 0.1);
  int channels = variant->stem;
  Value v = g.conv(g.input(options.height, options.width, 3), "features.conv0",
                   {.out = channels, .kernel = 7, .stride = 2});
  v = g.relu(g.batch_norm(v, "features.norm0"));
  for (int b = 0; b < 4; ++b) {
    const std::string block = "features.denseblock" + std::to_string(b + 1);
    const std::string before = "features.transition" + std::to_string(b);
    const int dense = g.buffer(block, channels + variant->blocks[b] * variant->growth);
    if (b == 0) {
      g.max_pool(v, "features.pool0", 3, 2, 1, dense);
    } else {
      v = g.average_pool(v, before + ".pool", 2);
      g.conv(v, before + ".conv", {.out = channels, .into = dense});
    }
    for (int l = 1; l <= variant->blocks[b]; ++l)
      dense_layer(g, dense, block + ".denselayer" + std::to_string(l), variant->growth);
    const std::string norm =
        b < 3 ? "features.transition" + std::to_string(b + 1) + ".norm" : "features.norm5";
    v = g.relu(g.batch_norm(g.placed(dense), norm));
    channels = v.channels / 2;
  }
  g.cross_entropy(g.linear(g.global_pool(v, "avgpool"), "classifier", options.classes));
  return g;
}

}  // namespace engine
