#include "io/weight_names.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
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

struct Rule {
  std::string_view timm, torchvision;
};

constexpr std::array<Rule, 5> kOutside = {{{"conv_stem", "features.0.0"},
                                           {"bn1", "features.0.1"},
                                           {"conv_head", "features.8.0"},
                                           {"bn2", "features.8.1"},
                                           {"classifier", "classifier.1"}}};
// Stage 0 has no expansion: depthwise, squeeze, project.
constexpr std::array<Rule, 6> kFirstStage = {{{"conv_dw", "0.0"},
                                              {"bn1", "0.1"},
                                              {"se.conv_reduce", "1.fc1"},
                                              {"se.conv_expand", "1.fc2"},
                                              {"conv_pw", "2.0"},
                                              {"bn2", "2.1"}}};
constexpr std::array<Rule, 8> kLaterStages = {{{"conv_pw", "0.0"},
                                               {"bn1", "0.1"},
                                               {"conv_dw", "1.0"},
                                               {"bn2", "1.1"},
                                               {"se.conv_reduce", "2.fc1"},
                                               {"se.conv_expand", "2.fc2"},
                                               {"conv_pwl", "3.0"},
                                               {"bn3", "3.1"}}};

// `layer.weight` by the rule for `layer`; empty if there is none.
template <size_t N>
std::string renamed_by(const std::array<Rule, N>& rules, std::string_view name) {
  const size_t dot = name.rfind('.');
  const auto rule = std::ranges::find(rules, name.substr(0, dot), &Rule::timm);
  if (dot == std::string_view::npos || rule == rules.end()) return {};
  return fmt::format("{}{}", rule->torchvision, name.substr(dot));
}

// blocks.S.J.layer.weight → features.(S+1).J.block.K.weight; a name without a rule stays, so that
// matching reports it.
std::string torchvision_efficientnet_name(const std::string& name) {
  const Parts parts = split(name);
  std::string renamed;
  if (parts.size() < 5 || parts[0] != "blocks") {
    renamed = renamed_by(kOutside, name);
  } else {
    int stage = -1;
    std::from_chars(parts[1].data(), parts[1].data() + parts[1].size(), stage);
    const size_t skipped = parts[0].size() + parts[1].size() + parts[2].size() + 3;
    const std::string_view layer = std::string_view(name).substr(skipped);
    renamed = stage == 0 ? renamed_by(kFirstStage, layer) : renamed_by(kLaterStages, layer);
    if (stage < 0 || stage > 6) renamed.clear();
    if (!renamed.empty())
      renamed = fmt::format("features.{}.{}.block.{}", stage + 1, parts[2], renamed);
  }
  return renamed.empty() ? name : renamed;
}

}  // namespace

void strip_prefixes(TensorFile& file) {
  rename_tensors(file, [](std::string_view name) {
    constexpr std::array<std::string_view, 2> kPrefixes = {"module.", "_orig_mod."};
    for (bool again = true; again;) {
      again = false;
      for (const std::string_view prefix : kPrefixes)
        if (name.starts_with(prefix)) name.remove_prefix(prefix.size()), again = true;
    }
    return std::string(name);
  });
}

void normalise_names(TensorFile& file, std::string_view model) {
  for (const char* key : {"arch", "architecture"})
    if (const auto found = file.metadata.find(key); found != file.metadata.end())
      refuse_tensorflow_port(found->second);
  if (model.starts_with("densenet")) {
    rename_tensors(file, modern_densenet_name);
  } else if (model.starts_with("efficientnet") && file.tensors.contains("conv_stem.weight")) {
    rename_tensors(file, torchvision_efficientnet_name);
  }
}

void refuse_tensorflow_port(std::string_view name) {
  require(name.find("tf_efficientnet") == std::string_view::npos, Failure::weights,
          "'{}': tf_efficientnet weights need TensorFlow's padding and a batch-norm epsilon of "
          "1e-3, which the models here do not have",
          name);
}

}  // namespace engine
