// Benchmarks without timing: shapes, stored rates, quantiles, the gate, k0 beside the gradient.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <vector>

#include "engine/error.h"
#include "models/models.h"
#include "tests/support.h"
#include "tools/bench/gate.h"
#include "tools/bench/gradient_stats.h"
#include "tools/bench/rates.h"
#include "tools/bench/shapes.h"
#include "tools/bench/step.h"

using namespace engine;

namespace {

// A CPU backend whose step `wrong` leaves its output alone.
class Faulty final : public Backend {
 public:
  explicit Faulty(int wrong) : wrong_(wrong) {}
  const BackendInfo& info() const override { return cpu_->info(); }
  size_t free_bytes() const override { return cpu_->free_bytes(); }
  Memory allocate(size_t bytes) override { return cpu_->allocate(bytes); }
  Memory allocate_host(size_t bytes) override { return cpu_->allocate_host(bytes); }
  void upload(void* to, const void* from, size_t bytes) override { cpu_->upload(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override {
    cpu_->download(to, from, bytes);
  }
  void clear(void* to, size_t bytes) override { cpu_->clear(to, bytes); }
  void synchronize() override { cpu_->synchronize(); }
  Prepared prepare(const Program& program, const PrepareOptions& options) override {
    Prepared prepared = cpu_->prepare(program, options);
    prepared.steps[wrong_].forward.clear();
    return prepared;
  }
  void upload_batch(const Program& program, int slot, const HostBatch& batch) override {
    cpu_->upload_batch(program, slot, batch);
  }
  void wait_uploaded(int slot) override { cpu_->wait_uploaded(slot); }
  void set_params(const Program& program, const StepParams& params) override {
    cpu_->set_params(program, params);
  }
  std::function<void()> record(const std::function<void()>& body) override {
    return cpu_->record(body);
  }
  std::map<std::string, std::string> algorithms() const override { return {}; }
  void set_algorithms(const std::map<std::string, std::string>&) override {}

 private:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend({.threads = 1});
  int wrong_;
};

const PlanOptions kPlan{.batch = 2, .workspace = size_t{64} << 20};

std::vector<int> all_steps(const Graph& graph) {
  std::vector<int> steps(graph.steps.size());
  for (size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<int>(i);
  return steps;
}

}  // namespace

TEST_CASE("quantiles are interpolated") {
  const std::vector<double> values{4, 1, 3, 2};
  CHECK(quantile(values, 0.5) == doctest::Approx(2.5));
  CHECK(quantile(values, 0) == 1);
  CHECK(quantile(values, 1) == 4);
  CHECK(std::isnan(quantile({}, 0.5)));
}

TEST_CASE("the parts of a step are medians, the pauses between steps a mean") {
  // Nanoseconds of three steps: begin, forward, backward, reduced, end.
  const std::vector<StepResult> steps{
      {.times = {1'000'000, 3'000'000, 6'000'000, 6'500'000, 7'000'000}},
      {.times = {7'000'000, 9'000'000, 13'000'000, 13'500'000, 14'000'000}},
      {.times = {16'000'000, 26'000'000, 30'000'000, 34'000'000, 34'250'000}}};
  const StepParts parts = parts_of(steps);
  CHECK(parts.forward == doctest::Approx(2));
  CHECK(parts.backward == doctest::Approx(4));
  CHECK(parts.all_reduce == doctest::Approx(0.5));
  CHECK(parts.optimizer == doctest::Approx(0.5));
  CHECK(parts.data == doctest::Approx(1));
  CHECK(parts_of({}).forward == 0);
}

TEST_CASE("every step has one of the distinct shapes") {
  const Graph graph = make_model("densenet121", {});
  int steps = 0;
  for (const StepShape& shape : distinct_shapes(graph)) {
    CHECK(shape_key(graph, graph.steps[shape.first]) == shape.key);
    steps += shape.count;
  }
  CHECK(steps == static_cast<int>(graph.steps.size()));
}

TEST_CASE("stored rates are read; nulls stay empty; a bad file is named") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "rates.json";
  std::ofstream(file) << R"([{"hardware": "H", "system": "S", "mode": "eager", "model": "m",
    "batch_size": 64, "precision": "fp16", "gpus": 2, "ms": null, "images_per_second": 12.5,
    "memory_mb": 7}])";
  const std::vector<Rate> rates = read_rates(file);
  REQUIRE(rates.size() == 1);
  CHECK(rates[0].batch == 64);
  CHECK(rates[0].gpus == 2);
  CHECK_FALSE(rates[0].ms);
  CHECK(rates[0].memory_mb == 7);
  std::ofstream(file) << R"([{"hardware": "H"}])";
  CHECK_THROWS_AS(read_rates(file), Error);
}

TEST_CASE("the gate passes the CPU backend") {
  for (const char* model : {"mnist_cnn", "efficientnet_b0", "efficientnet_v2_s", "densenet121",
                            "resnet50", "mobilenet_v2"}) {
    const int size = std::string_view(model) == "mnist_cnn" ? 28 : 32;
    const Graph graph = make_model(model, {.classes = 10, .height = size, .width = size});
    const auto cpu = make_cpu_backend({.threads = 1});
    std::vector<int> wanted;
    for (const StepShape& shape : distinct_shapes(graph)) wanted.push_back(shape.first);
    for (const StepCheck& check : check_steps(graph, *cpu, kPlan, wanted))
      CHECK_MESSAGE(check.passed(), model << " " << check.name << ": " << check.worst);
  }
}

TEST_CASE("the gate names the step that is wrong, and no other") {
  const Graph graph = make_model("mnist_cnn", {.classes = 10, .height = 28, .width = 28});
  constexpr int kWrong = 1;
  Faulty faulty(kWrong);
  for (const StepCheck& check : check_steps(graph, faulty, kPlan, all_steps(graph)))
    CHECK_MESSAGE(check.passed() == (check.step != kWrong), check.name << ": " << check.error);
}

TEST_CASE("the correction's statistics cover the normed buffers") {
  const Graph graph = make_model("efficientnet_b0", {.classes = 10, .height = 32, .width = 32});
  const auto cpu = make_cpu_backend({.threads = 1});
  int normed = 0;
  for (const Buffer& b : graph.buffers) normed += b.normed;
  const std::vector<BufferStats> stats = gradient_stats(graph, *cpu, kPlan);
  CHECK(static_cast<int>(stats.size()) == normed);
  for (const BufferStats& b : stats) {
    CHECK(b.above <= b.channels);
    CHECK(std::isfinite(b.largest));
    CHECK(b.median <= b.largest);
  }
}
