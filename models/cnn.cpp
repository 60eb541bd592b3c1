// The small network of PyTorch's MNIST example.
#include "models/models.h"

namespace engine {

Graph mnist_cnn(const ModelOptions& options) {
  Graph g("mnist_cnn", 1e-5, 0.1);
  g.initialisation = {.conv = Initialisation::Weight::uniform_fan_in, .zero_bias = false};
  Value v = g.input(options.height, options.width, 1);
  v = g.relu(g.conv(v, "conv1", {.out = 32, .kernel = 3, .padding = 0, .bias = true}));
  v = g.relu(g.conv(v, "conv2", {.out = 64, .kernel = 3, .padding = 0, .bias = true}));
  v = g.dropout(g.max_pool(v, "pool", 2, 2), "dropout1", options.dropout ? 0.25f : 0.f);
  v = g.relu(g.linear(v, "fc1", 128));
  v = g.dropout(v, "dropout2", options.dropout ? 0.5f : 0.f);
  g.cross_entropy(g.linear(v, "fc2", options.classes));
  return g;
}

}  // namespace engine
