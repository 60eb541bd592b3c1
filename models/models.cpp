#include "models/models.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "engine/error.h"

namespace engine {

namespace {

struct Entry {
  const char* name;
  Graph (*make)(std::string_view, const ModelOptions&);
};

Graph make_mnist_cnn(std::string_view, const ModelOptions& options) {
  return mnist_cnn(options);
}

constexpr Entry kModels[] = {
    {"efficientnet_b0", efficientnet},
    {"efficientnet_b1", efficientnet},
    {"efficientnet_b2", efficientnet},
    {"efficientnet_b3", efficientnet},
    {"efficientnet_b4", efficientnet},
    {"efficientnet_b5", efficientnet},
    {"efficientnet_b6", efficientnet},
    {"efficientnet_b7", efficientnet},
    {"efficientnet_v2_s", efficientnet},
    {"efficientnet_v2_m", efficientnet},
    {"densenet121", densenet},
    {"densenet161", densenet},
    {"densenet169", densenet},
    {"densenet201", densenet},
    {"resnet18", resnet},
    {"resnet34", resnet},
    {"resnet50", resnet},
    {"resnet101", resnet},
    {"resnet152", resnet},
    {"mobilenet_v2", mobilenet},
    {"mnist_cnn", make_mnist_cnn},
};

}  // namespace

Graph make_model(std::string_view name, const ModelOptions& options) {
  const auto* entry = std::find_if(std::begin(kModels), std::end(kModels),
                                   [&](const Entry& e) { return name == e.name; });
  require(entry != std::end(kModels), Failure::usage, "no model {}; known are {}", name,
          fmt::join(model_names(), ", "));
  return entry->make(name, options);
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const Entry& e : kModels) names.emplace_back(e.name);
  return names;
}

}  // namespace engine
