// Every kind and form of step: the reference in double is compared with finite differences, and the
// reference in float with it.
#include <algorithm>
#include <cmath>

#include "engine/anomaly.h"
#include "engine/rng.h"
#include "tests/engine/nan_cases.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr StepSize kSmall{.channels = 3, .batch = 2, .height = 5, .width = 6};

// A session in double on one fixed batch, whose loss is a function of parameters and input.
class LossFunction {
 public:
  LossFunction(const Graph& graph, int batch, bool frozen_norms)
      : backend_(make_reference_backend({.precision = Precision::fp64})),
        session_(graph, *backend_,
                 {.programs = {{batch, Mode::gradients}},
                  .precision = Precision::fp64,
                  .frozen_norms = frozen_norms,
                  .input_gradient = true,
                  .float_input = true,
                  .seed = 11}),
        batch_(batch),
        labels_(random_labels(batch, graph.classes(), 3)) {
    for (const auto& [name, tensor] : random_state(graph, 1))
      state[name] = convert(tensor, DType::f64);
    const Buffer& image = graph.buffers[graph.image.buffer];
    Rng rng({.seed = 4});
    input.resize(size_t(batch) * image.height * image.width * image.channels);
    unused_.resize(input.size());
    for (double& x : input) x = rng.uniform(-2, 2);
  }

  double operator()() {
    session_.load(state);
    session_.set_input(input);
    return session_.result(session_.gradients({unused_.data(), labels_.data(), batch_}, {})).loss;
  }
  std::map<std::string, Tensor> gradients() { return session_.gradients(); }
  std::vector<double> input_gradient() { return session_.input_gradient(batch_); }

  std::map<std::string, Tensor> state;
  std::vector<double> input;

 private:
  std::unique_ptr<Backend> backend_;
  Session session_;
  int batch_;
  std::vector<int32_t> labels_;
  std::vector<uint8_t> unused_;
};

// Up to `count` of the elements, spread by a fixed rule.
std::vector<size_t> chosen(size_t elements, size_t count) {
  std::vector<size_t> indices;
  for (size_t k = 0; k < std::min(elements, count); ++k)
    indices.push_back(elements <= count ? k : (k * 2654435761u) % elements);
  return indices;
}

// Central differences with a step of 1e-5: truncation ~1e-10, rounding ~1e-16 / 1e-5 = 1e-11, so
// 1e-8 of the tensor's size leaves an order for steep losses; a kink (ReLU, maximum) within 1e-5
// of a value would show as a difference of order one, and none of these inputs has one.
void check_gradient(LossFunction& loss, std::span<double> values, std::span<const double> gradient,
                    const std::string& what) {
  constexpr double kStep = 1e-5;
  REQUIRE(values.size() == gradient.size());
  double largest = 0;
  for (double g : gradient) largest = std::max(largest, std::abs(g));
  for (size_t i : chosen(values.size(), 8)) {
    const double kept = values[i];
    values[i] = kept + kStep;
    const double above = loss();
    values[i] = kept - kStep;
    const double below = loss();
    values[i] = kept;
    const double numeric = (above - below) / (2 * kStep);
    const double limit = 2e-9 + 1e-7 * largest;
    CHECK_MESSAGE(std::abs(numeric - gradient[i]) <= limit,
                  what << "[" << i << "]: " << gradient[i] << ", by differences " << numeric);
  }
}

void check_all_gradients(const Graph& graph, int batch, bool frozen_norms,
                         const std::string& what) {
  LossFunction loss(graph, batch, frozen_norms);
  loss();
  const auto gradients = loss.gradients();
  const auto input_gradient = loss.input_gradient();
  for (const auto& [name, gradient] : gradients)
    check_gradient(loss, loss.state.at(name).as<double>(), gradient.as<double>(),
                   what + ": " + name);
  check_gradient(loss, loss.input, input_gradient, what + ": input");
}

}  // namespace

TEST_CASE("gradients of every step agree with finite differences") {
  for (const StepCase& row : step_cases())
    check_all_gradients(make_graph(row, kSmall), kSmall.batch, false, row.name);
}

TEST_CASE("gradients with frozen norms agree with finite differences") {
  for (const StepCase& row : step_cases())
    check_all_gradients(make_graph(row, kSmall), kSmall.batch, true, row.name);
}

TEST_CASE("gradients with one channel and one image agree with finite differences") {
  const StepSize tiny{.channels = 1, .batch = 1, .height = 7, .width = 4};
  for (const StepCase& row : step_cases())
    check_all_gradients(make_graph(row, tiny), tiny.batch, false, row.name);
}

// Float rounds at 6e-8; sums of up to a few thousand terms and norms over few pixels leave 3e-6.
TEST_CASE("the reference in float agrees with double") {
  const auto backend = make_reference_backend({.precision = Precision::fp32});
  check_steps(*backend, {.precision = Precision::fp32}, {.error = 1e-5});
  check_steps(*backend, {.precision = Precision::fp32, .frozen_norms = true}, {.error = 1e-5});
}

TEST_CASE("what is not finite goes on and is found on the reference") {
  const auto backend = make_reference_backend({});
  check_nan_propagates(*backend, {});
  check_inspection(*backend, {});
}

TEST_CASE("what ends at fp16's range is told so") {
  Anomaly anomaly{"features.0", "its output", INFINITY, false, DType::f16};
  CHECK(to_string(anomaly) ==
        "features.0: its output holds inf, beyond fp16's 65504 (--precision bf16 has fp32's "
        "range)");
  anomaly.dtype = DType::bf16;
  CHECK(to_string(anomaly) == "features.0: its output holds inf");
  anomaly = {"features.0", "its output", NAN, false, DType::f16};
  CHECK(to_string(anomaly) == "features.0: its output holds nan");
}
