// The models by name. Graphs, parameter names and semantics are torchvision's; those of mnist_cnn
// are of PyTorch's MNIST example.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph.h"

namespace engine {

struct ModelOptions {
  int classes = 1000;
  int height = 224, width = 224;
  bool dropout = true;                   // before the head
  bool stochastic_depth = true;          // drops whole residual branches
  std::optional<double> norm_epsilon{};  // of all batch norms; none: the reference's
};

// Makes the model of a name of model_names(). Another name is an Error(usage) that lists them.
Graph make_model(std::string_view name, const ModelOptions& options);
std::vector<std::string> model_names();

Graph efficientnet(std::string_view name, const ModelOptions& options);
Graph densenet(std::string_view name, const ModelOptions& options);
Graph mobilenet(std::string_view name, const ModelOptions& options);
Graph resnet(std::string_view name, const ModelOptions& options);
Graph mnist_cnn(const ModelOptions& options);

}  // namespace engine
