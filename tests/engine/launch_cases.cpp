#include "tests/engine/launch_cases.h"

#include <numeric>

#include "engine/session.h"
#include "models/models.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

namespace engine::test {

namespace {

constexpr int kBatch = 2, kSize = 64, kClasses = 5;

Graph model(const std::string& name) {
  return make_model(name, {.classes = kClasses, .height = kSize, .width = kSize});
}

// The steps of the layers' launches, in order; a step's own launches follow one another.
std::vector<int> steps_of(std::span<const OrderedLaunch> launches) {
  std::vector<int> steps;
  for (const OrderedLaunch& launch : launches)
    if (launch.step != kNone && (steps.empty() || steps.back() != launch.step))
      steps.push_back(launch.step);
  return steps;
}

std::vector<int> forward_order(const Graph& graph) {
  std::vector<int> steps(graph.steps.size());
  std::iota(steps.begin(), steps.end(), 0);
  return steps;
}

// The loss has no backward: its forward writes the gradient of the logits. What lean memory
// computes again comes ahead of the backward that reads it.
std::vector<int> training_order(const Graph& graph, const Plan& plan) {
  std::vector<int> steps = forward_order(graph);
  for (int i = static_cast<int>(graph.steps.size()) - 1; i >= 0; --i) {
    for (const Recomputation& again : plan.recomputed)
      if (again.before == i && again.step != i) steps.push_back(again.step);
    if (!std::holds_alternative<Loss>(graph.steps[i])) steps.push_back(i);
  }
  return steps;
}

void check_described(std::span<const OrderedLaunch> launches) {
  for (const OrderedLaunch& entry : launches) {
    const Launch& launch = *entry.launch;
    CHECK_FALSE(launch.kernel.empty());
    CHECK_MESSAGE(!launch.shape.empty(), launch.kernel);
    CHECK_MESSAGE(launch.cost.bytes > 0, launch.kernel);
    CHECK_MESSAGE(launch.cost.flops >= 0, launch.kernel);
    CHECK_MESSAGE(static_cast<bool>(launch.enqueue), launch.kernel);
  }
}

// The bytes of parameters, running statistics and optimizer state, without the counters of steps,
// which the session keeps itself.
std::map<std::string, std::vector<std::byte>> bits_of(const Session& session) {
  std::map<std::string, std::vector<std::byte>> bits;
  const auto state = session.state();
  for (const Parameter& p : session.graph().parameters) bits[p.name] = state.at(p.name).bytes;
  for (const auto& [name, tensor] : session.optimizer_state()) bits[name] = tensor.bytes;
  return bits;
}

// The parameters of a step and its batch stay on the device after train(), so the launches take the
// same step again from the state before it. Returns what the step left.
std::map<std::string, std::vector<std::byte>> check_by_hand(Session& session) {
  const Buffer& image = session.graph().buffers[session.graph().image.buffer];
  const auto images = random_bytes(size_t{kBatch} * image.height * image.width * image.channels, 2);
  const auto labels = random_labels(kBatch, kClasses, 3);
  session.initialise(1);
  const auto state = session.state(), optimizer_state = session.optimizer_state();
  const auto before = bits_of(session);
  const uint64_t step = session.train({images.data(), labels.data(), kBatch},
                                      {.epoch = 1, .position = 8, .learning_rate = 0.01});
  const double loss = session.result(step).loss;
  const auto trained = bits_of(session);
  session.load(state);
  session.load_optimizer_state(optimizer_state);
  REQUIRE(bits_of(session) == before);
  for (const OrderedLaunch& launch : session.launches(kBatch, Mode::train))
    launch.launch->enqueue();
  CHECK(bits_of(session) == trained);
  CHECK(trained != before);
  CHECK(session.result(step).loss == loss);
  return trained;
}

std::map<std::string, std::vector<std::byte>> check_session(const std::string& name,
                                                            Backend& backend, MemoryUse memory) {
  Session session(model(name), backend,
                  {.programs = {{kBatch, Mode::train}, {kBatch, Mode::evaluate}},
                   .memory = memory,
                   .deterministic = true,
                   .seed = 5});
  const auto training = session.launches(kBatch, Mode::train),
             evaluation = session.launches(kBatch, Mode::evaluate);
  check_described(training);
  check_described(evaluation);
  CHECK(steps_of(training) == training_order(session.graph(), session.plan()));
  CHECK(steps_of(evaluation) == forward_order(session.graph()));
  CHECK(session.plan().recomputed.empty() == (memory == MemoryUse::fast));
  return check_by_hand(session);
}

}  // namespace

void check_launches(Backend& backend) {
  for (const char* name : {"mnist_cnn", "efficientnet_b0", "densenet121"}) {
    CAPTURE(name);
    const auto fast = check_session(name, backend, MemoryUse::fast);
    CHECK(check_session(name, backend, MemoryUse::lean) == fast);
  }
}

}  // namespace engine::test
