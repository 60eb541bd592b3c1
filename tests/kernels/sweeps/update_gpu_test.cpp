// Optimizers, gradient norm, averages, loss scale, casts and running statistics.
#include <limits>

#include "engine/optimizer.h"
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

// Group tables: every third block of the second group, every fifth frozen.
struct Groups {
  explicit Groups(int64_t n)
      : table({{1, 0.01}, {0.1, 0}, {0, 0.5}}),
        of([&] {
          std::vector<uint8_t> index(n / kUpdateBlock);
          for (size_t i = 0; i < index.size(); ++i) index[i] = i % 5 == 4 ? 2 : i % 3 == 2;
          return index;
        }()),
        device_table(table),
        device_of(of) {}
  const ParameterGroup& at(int64_t i) const { return table[of[i / kUpdateBlock]]; }
  kernels::GroupTable device() const { return {device_of.data(), device_table.data()}; }

  std::vector<ParameterGroup> table;
  std::vector<uint8_t> of;
  DeviceArray<ParameterGroup> device_table;
  DeviceArray<uint8_t> device_of;
};

constexpr double kClip = 3, kDecay = 0.75;

template <class T, class Step>
void check_update(const Step& step, int64_t n, bool skip, int64_t updates, bool averages) {
  constexpr int M = Step::kMoments;
  const double norm = 12;
  const State state(
      {.learning_rate = 1e-2},
      {.scale = 8, .found_inf = skip, .optimizer_steps = updates, .gradient_norm = norm});
  const Groups groups(n);
  Mirror<float> weights(normal(n, 1)), moments(uniform_values(M * n, 2, 0.01f, 0.1f)),
      gradients(normal(n, 3)), average(normal(n, 4));
  Mirror<T> copies(n, 0);
  kernels::Update<T, Step>::run({weights.device(), moments.device(), copies.device(),
                                 averages ? average.device() : nullptr, gradients.device()},
                                groups.device(), n, state.params.data(), state.scale.data(), step,
                                kClip, kDecay, nullptr);
  Step begun = step;
  begin(begun, 1e-2, updates);
  const double factor = clip_factor(norm, kClip) / 8;
  for (int64_t i = 0; !skip && i < n; ++i) {
    if (groups.at(i).rate > 0) {
      double m[M];
      for (int j = 0; j < M; ++j) m[j] = moments.host()[j * n + i];
      update(weights.host()[i], m, gradients.host()[i] * factor, of_group(begun, groups.at(i)));
      for (int j = 0; j < M; ++j) moments.host()[j * n + i] = m[j];
      copies.host()[i] = weights.host()[i];
    }
    if (averages) average.host()[i] = averaged(average.host()[i], weights.host()[i], kDecay);
  }
  weights.check({1e-6, 1e-6}, "weights");
  moments.check({1e-7, 1e-6}, "moments");
  average.check({1e-6, 1e-6}, "averages");
  copies.check(tolerance(kType<T>), "copies");
}

}  // namespace

TEST_CASE_TEMPLATE("update", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  using Kind = OptimizerConfig::Kind;
  for (const OptimizerConfig& config : {OptimizerConfig{},
                                        {.kind = Kind::adamw},
                                        {.kind = Kind::sgd},
                                        {.kind = Kind::sgd, .nesterov = true},
                                        {.kind = Kind::rmsprop},
                                        {.kind = Kind::rmsprop, .momentum = 0}})
    visit_update(config, [](const auto& step) {
      for (const int64_t n : {64, 128, 6400, 1'000'000})
        for (const bool averages : {false, true}) {
          check_update<T>(step, n, false, 4, averages);
          check_update<T>(step, n, false, 0, averages);
          check_update<T>(step, n, true, 4, averages);
        }
    });
}

TEST_CASE("gradient_norm leaves out what is frozen and finds what is not finite") {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int64_t n : {64, 6400, 2'000'000}) {
    const Groups groups(n);
    const DeviceArray<NormPartials> partials(std::vector<NormPartials>(1));
    const auto norm_of = [&](const std::vector<float>& values, bool dynamic) {
      const DeviceArray<float> gradients(values);
      const State state({}, {.scale = 8, .found_inf = dynamic, .dynamic = dynamic});
      for (int repeat = 0; repeat < 2; ++repeat)  // the partials are ready for the next launch
        kernels::gradient_norm(state.scale.data(), partials.data(), gradients.data(),
                               groups.device(), n, nullptr);
      return state.scale.download()[0];
    };
    std::vector<float> values = normal(n, 1);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
      if (groups.at(i).rate > 0) sum += double(values[i]) * values[i];
    const ScaleState plain = norm_of(values, true);
    CHECK(plain.gradient_norm == doctest::Approx(std::sqrt(sum) / 8).epsilon(1e-12));
    CHECK(plain.found_inf == 0);
    CHECK(norm_of(values, true).gradient_norm == plain.gradient_norm);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max()})
      for (const int64_t at : {int64_t{0}, n / 2, n - 1})
        for (const bool dynamic : {true, false}) {
          values = normal(n, 1);
          values[at] = bad;
          CHECK(norm_of(values, dynamic).found_inf ==
                (!std::isfinite(bad) && groups.at(at).rate > 0));
        }
  }
}

TEST_CASE("averages, accumulated gradients and exchanges") {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int64_t n : {64, 6400, 1'000'000})
    for (const bool skip : {false, true}) {
      const State state({}, {.found_inf = skip});
      Mirror<float> a(normal(n, 1)), b(normal(n, 2)), c(normal(n, 3));
      kernels::average(a.device(), b.device(), n, state.scale.data(), kDecay, nullptr);
      kernels::accumulate(b.device(), c.device(), n, nullptr);
      kernels::exchange(a.device(), c.device(), n, nullptr);
      kernels::add_accumulated(a.device(), b.device(), n, nullptr);
      for (int64_t i = 0; i < n; ++i) {
        if (!skip) a.host()[i] = averaged(a.host()[i], b.host()[i], kDecay);
        b.host()[i] += c.host()[i];
        std::swap(a.host()[i], c.host()[i]);
        a.host()[i] += b.host()[i];
        b.host()[i] = 0;
      }
      a.check({1e-6, 1e-6}, "sums");
      b.check({0, 0}, "cleared");
      c.check({1e-6, 1e-6}, "averages");
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
          finish_step(scale, expected, updated);
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
    kernels::Casts<T>::from_float(to.data(), from.data(), n, nullptr);
    kernels::Casts<T>::to_float(back.data(), to.data(), n, nullptr);
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
                     arrays[first + 2]->device(), arrays[first + 3]->device(), channels, 5,
                     channels == 40 ? 0 : 2, 0.1f});
    reference::update_running(arrays[first]->host(), arrays[first + 1]->host(),
                              static_cast<const double*>(arrays[first + 2]->host()),
                              static_cast<const double*>(arrays[first + 3]->host()), channels, 0.1,
                              10);
  }
  const DeviceArray<kernels::RunningNorm> device_table(table);
  const DeviceArray<StepParams> params(std::vector<StepParams>{{.total = 2}});
  kernels::update_running(device_table.data(), static_cast<int>(table.size()), 300, params.data(),
                          nullptr);
  for (const auto& array : arrays) array->check({1e-6, 1e-6}, "running");
}
