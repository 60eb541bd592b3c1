// Optimizers, overflow check, loss scale, casts and running statistics.
#include <limits>

#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

struct State {
  State(StepParams p, ScaleState s)
      : params(std::vector<StepParams>{p}), scale(std::vector<ScaleState>{s}), results(4) {}
  DeviceArray<StepParams> params;
  DeviceArray<ScaleState> scale;
  DeviceArray<StepResult> results;
};

}  // namespace

TEST_CASE_TEMPLATE("adam_update", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int64_t n : {1, 63, 64, 5000})
    for (const bool skip : {false, true}) {
      const State state({.learning_rate = 1e-2},
                        {.scale = 8, .found_inf = skip, .optimizer_steps = 4});
      Mirror<float> weights(normal(n, 1)), moments(uniform_values(2 * n, 2, 0.01f, 0.1f)),
          gradients(normal(n, 3));
      Mirror<T> copies(n, 0);
      kernels::adam_update(weights.device(), moments.device(), copies.device(), gradients.device(),
                           n, state.params.data(), state.scale.data(), 0.9, 0.999, 1e-8, 0.01,
                           nullptr);
      const AdamStep step{1e-2, 1 - std::pow(0.9, 5), 1 - std::pow(0.999, 5), 0.9, 0.999, 1e-8,
                          0.01};
      for (int64_t i = 0; !skip && i < n; ++i) {
        adam(weights.host()[i], moments.host()[i], moments.host()[n + i], gradients.host()[i] / 8,
             step);
        copies.host()[i] = weights.host()[i];
      }
      weights.check({1e-6, 1e-6}, "weights");
      moments.check({1e-7, 1e-6}, "moments");
      copies.check(tolerance(kType<T>), "copies");
    }
}

TEST_CASE_TEMPLATE("sgd_update", T, float, __half) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int64_t n : {1, 64, 5000})
    for (const int64_t steps : {0, 3}) {
      const State state({.learning_rate = 0.1}, {.optimizer_steps = steps});
      Mirror<float> weights(normal(n, 1)), moments(normal(n, 2)), gradients(normal(n, 3));
      kernels::sgd_update(weights.device(), moments.device(), static_cast<T*>(nullptr),
                          gradients.device(), n, state.params.data(), state.scale.data(), 0.9, 1e-3,
                          nullptr);
      for (int64_t i = 0; i < n; ++i)
        sgd(weights.host()[i], moments.host()[i], gradients.host()[i],
            SgdStep{0.1, 0.9, 1e-3, steps == 0});
      weights.check({1e-6, 1e-6}, "weights");
      moments.check({1e-6, 1e-6}, "momentum");
    }
}

TEST_CASE("check_finite finds what is not, where it looks") {
  if (!has_gpu()) return note_skipped("no GPU");
  const int64_t n = 10'003;
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max()})
    for (const int64_t at : {int64_t{0}, int64_t{5001}, n - 1})
      for (const bool dynamic : {true, false}) {
        std::vector<float> values = normal(n, 1);
        values[at] = bad;
        const DeviceArray<float> gradients(values);
        const State state({}, {.found_inf = 1, .dynamic = dynamic});
        kernels::check_finite(state.scale.data(), gradients.data(), n, nullptr);
        CHECK(state.scale.download()[0].found_inf == (dynamic && !std::isfinite(bad)));
      }
}

TEST_CASE("finish_step moves the scale like PyTorch's GradScaler") {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const bool dynamic : {false, true})
    for (const bool found : {false, true})
      for (const bool updated : {false, true})
        for (const int good : {0, 1999}) {
          ScaleState scale{.scale = 1024,
                           .good_steps = good,
                           .found_inf = dynamic && found,
                           .dynamic = dynamic,
                           .optimizer_steps = 9};
          const StepParams params{.result = 2, .step = 77};
          const State state(params, scale);
          kernels::finish_step(state.scale.data(), state.results.data(), state.params.data(),
                               updated, nullptr);
          StepResult expected;
          reference::finish_step(scale, expected, updated);
          const ScaleState ours = state.scale.download()[0];
          const StepResult result = state.results.download()[2];
          CHECK(ours.scale == scale.scale);
          CHECK(ours.good_steps == scale.good_steps);
          CHECK(ours.optimizer_steps == scale.optimizer_steps);
          CHECK(result.overflow == expected.overflow);
          CHECK(result.scale == expected.scale);
          CHECK(result.step == params.step);
        }
}

TEST_CASE_TEMPLATE("casts", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int64_t n : {1, 7, 8, 1000, 4099}) {
    const std::vector<float> values = normal(n, 1);
    const DeviceArray<float> from(values), back(n);
    const DeviceArray<T> to(n);
    kernels::cast(to.data(), from.data(), n, nullptr);
    kernels::cast_back(back.data(), to.data(), n, nullptr);
    const std::vector<float> ours = back.download();
    for (int64_t i = 0; i < n; ++i) CHECK(ours[i] == plain(rounded<T>(values[i])));
  }
}

TEST_CASE("update_running") {
  if (!has_gpu()) return note_skipped("no GPU");
  std::vector<std::unique_ptr<Mirror<float>>> arrays;
  std::vector<kernels::RunningNorm> table;
  const std::vector<int> widths = {1, 40, 300};
  for (const int channels : widths) {
    const size_t first = arrays.size();
    for (int i = 0; i < 4; ++i)
      arrays.emplace_back(new Mirror<float>(uniform_values(channels, i, 0.f, 2.f)));
    table.push_back({arrays[first]->device(), arrays[first + 1]->device(),
                     arrays[first + 2]->device(), arrays[first + 3]->device(), channels, 0.1f,
                     10.f / 9.f});
    reference::update_running(arrays[first]->host(), arrays[first + 1]->host(),
                              static_cast<const double*>(arrays[first + 2]->host()),
                              static_cast<const double*>(arrays[first + 3]->host()), channels, 0.1,
                              10);
  }
  const DeviceArray<kernels::RunningNorm> device_table(table);
  kernels::update_running(device_table.data(), static_cast<int>(table.size()), 300, nullptr);
  for (const auto& array : arrays) array->check({1e-6, 1e-6}, "running");
}
