#include "tests/engine/nan_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/engine/step_cases.h"
#include "tests/support.h"

namespace engine::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<uint8_t> images_of(const Buffer& image, int batch) {
  return random_bytes(size_t(batch) * image.height * image.width * image.channels, 2);
}

// Values of a grid that every storage type holds; the pixel in the middle of the first image is NaN
// in one channel.
std::vector<double> with_nan(const Buffer& image, const std::vector<uint8_t>& bytes) {
  std::vector<double> values;
  for (const uint8_t byte : bytes) values.push_back((byte - 128) / 64.);
  values[(image.height / 2 * image.width + image.width / 2) * image.channels] = kNan;
  return values;
}

bool equal(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b,
           const Graph& graph) {
  return std::ranges::all_of(graph.parameters, [&](const Parameter& p) {
    return !p.trained() || a.at(p.name).bytes == b.at(p.name).bytes;
  });
}

struct NanRun {
  NanRun(const Graph& graph, int batch, Backend& backend, SessionOptions options)
      : labels(random_labels(batch, graph.classes(), 9)),
        bytes(images_of(graph.buffers[graph.image.buffer], batch)),
        pixels(with_nan(graph.buffers[graph.image.buffer], bytes)),
        session(graph, backend, complete(std::move(options), batch)) {
    session.load(random_state(graph, 1));
  }

  static SessionOptions complete(SessionOptions options, int batch) {
    options.programs = {{batch, Mode::train}, {batch, Mode::evaluate}};
    options.float_input = true;
    options.workspace = size_t{32} << 20;
    options.loss_scale = 256;
    options.fixed_loss_scale = true;
    options.normalisation = {{0.5f, 0.45f, 0.4f}, {0.25f, 0.25f, 0.25f}};
    return options;
  }

  // The input is `pixels`: the bytes only keep the labels company.
  HostBatch batch() {
    session.set_input(pixels);
    return {bytes.data(), labels.data(), static_cast<int>(labels.size())};
  }

  std::vector<int32_t> labels;
  std::vector<uint8_t> bytes;
  std::vector<double> pixels;
  Session session;
};

void check_row(const StepCase& row, const StepSize& size, Backend& backend,
               const SessionOptions& options) {
  CAPTURE(row.name);
  CAPTURE(size.channels);
  const Graph graph = make_graph(row, size);
  NanRun run(graph, size.batch, backend, options);
  Session& session = run.session;

  session.evaluate(run.batch(), {});
  const std::vector<double> logits = session.logits(size.batch);
  for (size_t i = 0; i < logits.size(); ++i)
    CHECK(std::isnan(logits[i]) == (i < size_t(graph.classes())));

  const auto before = session.state();
  StepResult result = session.result(session.train(run.batch(), {.learning_rate = 0.1}));
  CHECK(std::isnan(result.loss));
  CHECK(result.overflow == 1);
  CHECK(equal(session.state(), before, graph));
  std::ranges::replace_if(
      run.pixels, [](double v) { return std::isnan(v); }, 0.);
  result = session.result(session.train(run.batch(), {.learning_rate = 0.1}));
  CHECK(std::isfinite(result.loss));
  CHECK(result.overflow == 1);
  CHECK(equal(session.state(), before, graph));
}

// Of several NaN in a window, the last takes the gradient; so does PyTorch's max_pool2d(3, 2, 1).
void check_pooled_nan(Backend& backend, SessionOptions options) {
  Graph graph("pooled", 1e-5, 0.1);
  const Value image = graph.input(3, 3, 1);
  const Value pooled = graph.max_pool(graph.relu(image), "pool", 3, 2, 1);
  graph.cross_entropy(graph.linear(graph.global_pool(pooled, "mean"), "linear", 2));
  options.input_gradient = true;
  NanRun run(graph, 1, backend, options);
  run.pixels = {1, kNan, 2, kNan, 1, kNan, 2, 2, 2};
  run.session.result(run.session.train(run.batch(), {}));
  const std::vector<double> gradient = run.session.input_gradient(1);
  for (size_t i = 0; i < gradient.size(); ++i) CHECK((gradient[i] == 0) == (i != 3 && i != 5));
}

}  // namespace

void check_nan_propagates(Backend& backend, const SessionOptions& options) {
  const StepSize sizes[] = {{3, 2, 9, 6}, {16, 2, 8, 8}};
  for (const StepCase& row : step_cases())
    for (const StepSize& size : sizes) check_row(row, size, backend, options);
  check_pooled_nan(backend, options);

  const Graph graph = make_graph(step_cases().front(), sizes[0]);
  NanRun run(graph, sizes[0].batch, backend, options);
  const Inspection found = run.session.inspect(run.batch(), {}, Mode::train);
  REQUIRE(found.first);
  CHECK(to_string(*found.first) == "stem: its output holds nan");
}

void check_inspection(Backend& backend, const SessionOptions& options) {
  const StepSize size{3, 2, 9, 6};
  const auto row = std::ranges::find(step_cases(), "depthwise 3x3", &StepCase::name);
  REQUIRE(row != step_cases().end());
  const Graph graph = make_graph(*row, size);
  const auto after_a_step = [&](double divisor, double weight, bool inspected) {
    NanRun run(graph, size.batch, backend, options);
    std::ranges::replace_if(
        run.pixels, [](double v) { return std::isnan(v); }, 0.);
    auto state = random_state(graph, 1);
    state.at("step.weight").as<float>()[0] = static_cast<float>(weight);
    run.session.load(state);
    const StepInput input{.learning_rate = 0.01, .divisor = divisor};
    Inspection found;
    if (inspected)
      found = run.session.inspect(run.batch(), input, Mode::train);
    else
      run.session.result(run.session.train(run.batch(), input));
    return std::pair(found.first, run.session.state());
  };
  const auto [none, ours] = after_a_step(2, 0.5, true);
  CHECK_FALSE(none);
  CHECK(equal(ours, after_a_step(2, 0.5, false).second, graph));

  const auto forward = after_a_step(2, kNan, true).first;
  REQUIRE(forward);
  CHECK(to_string(*forward) == "step: its output holds nan");
  CHECK_FALSE(forward->backward);

  // The gradient of the logits is beyond what the type holds, the loss is not.
  const auto backward = after_a_step(1e-45, 0.5, true).first;
  REQUIRE(backward);
  CHECK(backward->backward);
  CHECK(backward->what == "the gradient of its input");
  CHECK(std::isinf(backward->value));
}

}  // namespace engine::test
