#include "io/weights/weight_names.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.h"

namespace engine {
namespace {

using Parts = std::vector<std::string>;

Parts split(std::string_view name) {
  Parts parts;
  for (size_t dot; (dot = name.find('.')) != std::string_view::npos; name.remove_prefix(dot + 1))
    parts.emplace_back(name.substr(0, dot));
  parts.emplace_back(name);
  return parts;
}

template <class Rename>
void rename_tensors(TensorFile& file, Rename rename) {
  std::map<std::string, Tensor> renamed;
  for (auto& [name, tensor] : file.tensors) {
    const std::string target = rename(name);
    require(renamed.try_emplace(target, std::move(tensor)).second, Failure::weights,
            "tensor '{}' and another one are both '{}'", name, target);
  }
  file.tensors = std::move(renamed);
}

// features.denseblock1.denselayer2.norm.1.weight → features.denseblock1.denselayer2.norm1.weight
std::string modern_densenet_name(std::string_view name) {
  Parts parts = split(name);
  for (size_t i = 0; i + 3 < parts.size(); ++i) {
    if (!parts[i].starts_with("denselayer") || (parts[i + 1] != "norm" && parts[i + 1] != "conv") ||
        (parts[i + 2] != "1" && parts[i + 2] != "2"))
      continue;
    parts[i + 1] += parts[i + 2];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 2);
    break;
  }
  return fmt::format("{}", fmt::join(parts, "."));
}

// A layer within the name of its block.
struct Nested {
  std::string_view timm, torchvision;
};
constexpr Nested kEfficientNetFirst[] = {  // no expansion: depthwise, squeeze, project
    {"conv_dw", "0.0"},          {"bn1", "0.1"},     {"se.conv_reduce", "1.fc1"},
    {"se.conv_expand", "1.fc2"}, {"conv_pw", "2.0"}, {"bn2", "2.1"}};
constexpr Nested kEfficientNetLater[] = {{"conv_pw", "0.0"},          {"bn1", "0.1"},
                                         {"conv_dw", "1.0"},          {"bn2", "1.1"},
                                         {"se.conv_reduce", "2.fc1"}, {"se.conv_expand", "2.fc2"},
                                         {"conv_pwl", "3.0"},         {"bn3", "3.1"}};
constexpr Nested kEfficientNetV2First[] = {{"conv", "0.0"}, {"bn1", "0.1"}};  // one convolution
constexpr Nested kEfficientNetV2Fused[] = {
    {"conv_exp", "0.0"}, {"bn1", "0.1"}, {"conv_pwl", "1.0"}, {"bn2", "1.1"}};
constexpr Nested kMobileNetFirst[] = {
    {"conv_dw", "0.0"}, {"bn1", "0.1"}, {"conv_pw", "1"}, {"bn2", "2"}};
constexpr Nested kMobileNetLater[] = {{"conv_pw", "0.0"}, {"bn1", "0.1"},    {"conv_dw", "1.0"},
                                      {"bn2", "1.1"},     {"conv_pwl", "2"}, {"bn3", "3"}};

struct Layer {
  std::string timm, torchvision;
};
using Layers = std::vector<Layer>;

// The layers around the blocks. torchvision counts the first and the last among the features.
Layers outside(int last) {
  return {{"conv_stem", "features.0.0"},
          {"bn1", "features.0.1"},
          {"conv_head", fmt::format("features.{}.0", last)},
          {"bn2", fmt::format("features.{}.1", last)},
          {"classifier", "classifier.1"}};
}

void add_block(Layers& layers, int stage, int block, const std::string& torchvision,
               std::span<const Nested> within) {
  for (const Nested& layer : within)
    layers.push_back({fmt::format("blocks.{}.{}.{}", stage, block, layer.timm),
                      fmt::format("{}.{}", torchvision, layer.torchvision)});
}

Layers efficientnet_layers() {
  constexpr int kStages = 7, kMostBlocks = 13;  // in a stage of B7
  Layers layers = outside(kStages + 1);
  for (int stage = 0; stage < kStages; ++stage)
    for (int block = 0; block < kMostBlocks; ++block)
      add_block(layers, stage, block, fmt::format("features.{}.{}.block", stage + 1, block),
                stage == 0 ? std::span<const Nested>(kEfficientNetFirst)
                           : std::span<const Nested>(kEfficientNetLater));
  return layers;
}

// S has six stages, M seven.
Layers efficientnet_v2_layers(int stages) {
  constexpr int kMostBlocks = 18;  // in a stage of M
  Layers layers = outside(stages + 1);
  for (int stage = 0; stage < stages; ++stage)
    for (int block = 0; block < kMostBlocks; ++block)
      add_block(layers, stage, block, fmt::format("features.{}.{}.block", stage + 1, block),
                stage == 0  ? std::span<const Nested>(kEfficientNetV2First)
                : stage < 3 ? std::span<const Nested>(kEfficientNetV2Fused)
                            : std::span<const Nested>(kEfficientNetLater));
  return layers;
}

Layers mobilenet_layers() {
  constexpr int kBlocks[] = {1, 2, 3, 4, 3, 3, 1};  // torchvision numbers them throughout
  Layers layers = outside(18);
  int number = 1;
  for (int stage = 0; stage < 7; ++stage)
    for (int block = 0; block < kBlocks[stage]; ++block)
      add_block(layers, stage, block, fmt::format("features.{}.conv", number++),
                stage == 0 ? std::span<const Nested>(kMobileNetFirst)
                           : std::span<const Nested>(kMobileNetLater));
  return layers;
}

// A layer that is named in `from` gets the name at its position in `to`. A name that is not there
// stays, so that matching reports it.
void rename_layers(TensorFile& file, const Layers& layers, std::string Layer::*from,
                   std::string Layer::*to) {
  std::map<std::string_view, std::string_view> names;
  for (const Layer& layer : layers) names[layer.*from] = layer.*to;
  rename_tensors(file, [&](std::string_view name) {
    const size_t dot = std::min(name.rfind('.'), name.size());
    const auto found = names.find(name.substr(0, dot));
    return found == names.end() ? std::string(name)
                                : fmt::format("{}{}", found->second, name.substr(dot));
  });
}

// All norms of timm's EfficientNets and MobileNetV2 have PyTorch's epsilon; torchvision gave B5, B6
// and B7, whose weights are a port of TensorFlow's, and V2 another one.
constexpr char kTimmEpsilon[] = "1e-05", kTorchvisionEpsilonOfB5[] = "0.001";
constexpr int64_t kFeaturesOfB5 = 2048;

// Channels of the last convolution of an EfficientNet; 0: there is none.
int64_t features_of(const TensorFile& file) {
  const auto last = file.tensors.find("features.8.0.weight");
  return last == file.tensors.end() || last->second.shape.empty() ? 0 : last->second.shape[0];
}

}  // namespace

void strip_prefixes(TensorFile& file) {
  rename_tensors(file, [](std::string_view name) {
    constexpr std::string_view kPrefixes[] = {"module.", "_orig_mod.", "model.", "net.",
                                              "backbone."};
    for (bool again = true; again;) {
      again = false;
      for (const std::string_view prefix : kPrefixes)
        if (name.starts_with(prefix)) name.remove_prefix(prefix.size()), again = true;
    }
    return std::string(name);
  });
}

std::vector<std::string> drop_counters(TensorFile& file) {
  constexpr std::string_view kCounters[] = {"n_averaged", "total_ops", "total_params"};
  std::vector<std::string> dropped;
  for (const auto& [name, tensor] : file.tensors) {
    const std::string_view last = std::string_view(name).substr(name.rfind('.') + 1);
    if (std::ranges::find(kCounters, last) != std::end(kCounters)) dropped.push_back(name);
  }
  for (const std::string& name : dropped) file.tensors.erase(name);
  return dropped;
}

void normalise_names(TensorFile& file, std::string_view model) {
  for (const char* key : {"arch", "architecture"})
    if (const auto found = file.metadata.find(key); found != file.metadata.end())
      refuse_tensorflow_port(found->second);
  if (model.empty() || model.starts_with("densenet")) rename_tensors(file, modern_densenet_name);
  if (!file.tensors.contains("conv_stem.weight")) return;
  const bool v2 = file.tensors.contains("blocks.0.0.conv.weight");
  const bool squeezes = file.tensors.contains("blocks.0.0.se.conv_reduce.weight");
  const int v2_stages = file.tensors.contains("blocks.6.0.conv_pw.weight") ? 7 : 6;
  if (model.starts_with("efficientnet") || (model.empty() && (v2 || squeezes)))
    rename_layers(file, v2 ? efficientnet_v2_layers(v2_stages) : efficientnet_layers(),
                  &Layer::timm, &Layer::torchvision);
  else if (model.starts_with("mobilenet") || model.empty())
    rename_layers(file, mobilenet_layers(), &Layer::timm, &Layer::torchvision);
  else
    return;
  file.metadata.try_emplace(kNormEpsilon, kTimmEpsilon);
}

void use_timm_names(TensorFile& file) {
  const bool efficientnet = file.tensors.contains("features.1.0.block.0.0.weight");
  const bool v2 = file.tensors.contains("features.2.0.block.1.0.weight") &&
                  !file.tensors.contains("features.2.0.block.2.fc1.weight");
  const int v2_stages = file.tensors.contains("features.8.0.weight") ? 7 : 6;
  if (v2 || (efficientnet && features_of(file) >= kFeaturesOfB5))
    file.metadata.try_emplace(kNormEpsilon, kTorchvisionEpsilonOfB5);
  if (efficientnet || file.tensors.contains("features.1.conv.0.0.weight"))
    rename_layers(file,
                  v2             ? efficientnet_v2_layers(v2_stages)
                  : efficientnet ? efficientnet_layers()
                                 : mobilenet_layers(),
                  &Layer::torchvision, &Layer::timm);
}

void refuse_tensorflow_port(std::string_view name) {
  require(name.find("tf_efficientnet") == std::string_view::npos, Failure::weights,
          "'{}': tf_efficientnet weights need TensorFlow's padding, which the models here do not "
          "have",
          name);
}

}  // namespace engine
