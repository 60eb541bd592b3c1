// The loss of the first step on a new head, on the CPU backend.
#include <cmath>

#include "engine/session.h"
#include "models/models.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kBatch = 16, kClasses = 7;

double first_loss(Backend& backend, Graph graph) {
  const Buffer& image = graph.buffers[graph.image.buffer];
  const auto pixels =
      random_bytes(size_t(kBatch) * image.height * image.width * graph.image.channels(), 1);
  const auto labels = random_labels(kBatch, kClasses, 2);
  Session session(std::move(graph), backend,
                  {.programs = {{kBatch, Mode::train}},
                   .normalisation = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}}});
  session.initialise(1);
  return session.result(session.train({pixels.data(), labels.data(), kBatch}, {})).loss;
}

}  // namespace

TEST_CASE("the first loss on a new head is near the logarithm of the number of classes") {
  const auto backend = make_cpu_backend({});
  for (const char* name :
       {"efficientnet_b0", "densenet121", "resnet18", "mobilenet_v2", "mnist_cnn"}) {
    const int size = name == std::string("mnist_cnn") ? 28 : 64;
    const ModelOptions options{.classes = kClasses, .height = size, .width = size};
    CHECK_MESSAGE(std::abs(first_loss(*backend, make_model(name, options)) -
                           std::log(double(kClasses))) < 0.2,
                  name);
  }
  // It would not be by EfficientNet's own rule, ±1/√classes.
  Graph graph = make_model("efficientnet_b0", {.classes = kClasses, .height = 64, .width = 64});
  graph.initialisation.published_head = true;
  CHECK(first_loss(*backend, std::move(graph)) > std::log(double(kClasses)) + 0.2);
}
