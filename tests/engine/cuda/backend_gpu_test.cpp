// The CUDA backend beside the steps: repeatability, reuse of chosen algorithms, staging slots.
#include <algorithm>
#include <memory>
#include <vector>

#include "models/models.h"
#include "tests/engine/cuda/cuda_backend.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr StepSize kSize{.channels = 24, .batch = 5, .height = 14, .width = 14};

}  // namespace

TEST_CASE("a deterministic step leaves the same bits again") {
  const auto first = cuda_backend(Precision::fp16);
  if (!first) return;
  const auto second = cuda_backend(Precision::fp16);
  const SessionOptions options{.precision = Precision::fp16, .deterministic = true};
  for (const StepCase& row : step_cases()) {
    const Graph graph = make_graph(row, kSize);
    const StepOutcome a = run_step(graph, kSize.batch, *first, options);
    const StepOutcome b = run_step(graph, kSize.batch, *second, options);
    CHECK_MESSAGE((a.loss == b.loss && a.values == b.values), row.name);
  }
}

TEST_CASE("lean memory leaves the bits of fast memory") {
  for (const Precision precision : {Precision::fp32, Precision::fp16, Precision::bf16}) {
    const auto backend = cuda_backend(precision);
    if (!backend) return;
    for (const char* name : {"efficientnet_b0", "mobilenet_v2", "densenet121"})
      for (const ConvForm conv : {ConvForm::automatic, ConvForm::fused, ConvForm::library}) {
        const Graph graph = make_model(name, {.classes = 10, .height = 96, .width = 96});
        SessionOptions options{.precision = precision, .conv = conv, .deterministic = true};
        const StepOutcome fast = run_step(graph, 8, *backend, options);
        options.memory = MemoryUse::lean;
        const StepOutcome lean = run_step(graph, 8, *backend, options);
        CHECK_MESSAGE(lean.values == fast.values,
                      name << " in " << name_of(precision) << ", " << name_of(conv));
      }
  }
}

TEST_CASE("given algorithms are used, not searched again") {
  const auto first = cuda_backend(Precision::fp16);
  if (!first) return;
  const auto second = cuda_backend(Precision::fp16);
  const SessionOptions options{.precision = Precision::fp16};
  const Graph graph = make_graph(step_cases().front(), kSize);
  run_step(graph, kSize.batch, *first, options);
  CHECK_FALSE(first->algorithms().empty());
  second->set_algorithms(first->algorithms());
  run_step(graph, kSize.batch, *second, options);
  CHECK(second->algorithms() == first->algorithms());
}

// Host memory is overwritten as soon as train() returns, and the next upload starts while the step
// before it may still run: each step must see its own batch.
TEST_CASE("steps enqueued without waiting see their own batches") {
  const auto backend = cuda_backend(Precision::fp32);
  if (!backend) return;
  const Graph graph = make_graph(step_cases().front(), kSize);
  const SessionOptions options{.programs = {{kSize.batch, Mode::gradients}},
                               .precision = Precision::fp32,
                               .deterministic = true,
                               .workspace = size_t{32} << 20};
  Session session(graph, *backend, options);
  session.load(random_state(graph, 1));
  session.prepare();

  constexpr int kSteps = 12;
  const Buffer& image = graph.buffers[graph.image.buffer];
  const size_t bytes = size_t(kSize.batch) * image.height * image.width * image.channels;
  const Memory pinned = backend->allocate_host(bytes);
  auto* images = reinterpret_cast<uint8_t*>(pinned.get());
  const auto enqueue = [&](int step) {
    const auto random = random_bytes(bytes, step);
    std::copy(random.begin(), random.end(), images);
    const auto labels = random_labels(kSize.batch, kStepClasses, step);
    return session.gradients({images, labels.data(), kSize.batch}, {});
  };
  std::vector<double> alone;
  for (int step = 0; step < kSteps; ++step) alone.push_back(session.result(enqueue(step)).loss);
  std::vector<uint64_t> steps;
  for (int step = 0; step < kSteps; ++step) steps.push_back(enqueue(step));
  for (int step = 0; step < kSteps; ++step) CHECK(session.result(steps[step]).loss == alone[step]);
}
