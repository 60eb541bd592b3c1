// The CPU backend's own loops: every instruction set that this processor has is compared with the
// formulas of operand.h; sums must not cancel, slices have edges, memory has caps, bits repeat.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <thread>
#include <vector>

#include "engine/cpu/rows.h"
#include "engine/cpu/sweeps.h"
#include "engine/cpu/threads.h"
#include "engine/error.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::cpu;
using namespace engine::test;

namespace {

std::vector<const RowKernels*> runnable_kernels() {
  std::vector<const RowKernels*> tables = {&row_kernels_v2()};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tables.push_back(&row_kernels_v3());
  if (std::string_view(row_kernels().name) == row_kernels_v4().name)
    tables.push_back(&row_kernels_v4());
  return tables;
}

// Reproducible values in [low, high).
std::vector<float> random_values(size_t count, uint64_t seed, float low = -2, float high = 2) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] =
        low + (high - low) * uniform(philox({.seed = seed}, static_cast<uint32_t>(i)).bits[0]);
  return values;
}

// One norm and factors of `channels` channels, as the loops read them.
struct Constants {
  explicit Constants(int channels)
      : mean(random_values(padded(channels), 1)),
        inv_std(random_values(padded(channels), 2, 0.5f, 2)),
        gamma(random_values(padded(channels), 3, 0.5f, 1.5f)),
        beta(random_values(padded(channels), 4)),
        gate(random_values(padded(channels), 5, 0, 1)),
        q(random_values(padded(channels), 6)),
        k0(random_values(padded(channels), 7)),
        k1(random_values(padded(channels), 8)),
        scale(padded(channels)) {
    for (size_t c = 0; c < scale.size(); ++c) scale[c] = gamma[c] * inv_std[c];
  }
  NormRow row() const { return {mean.data(), inv_std.data(), scale.data(), beta.data()}; }
  ChannelNorm<double> norm(int c) const { return {mean[c], inv_std[c], gamma[c], beta[c]}; }

  std::vector<float> mean, inv_std, gamma, beta, gate, q, k0, k1, scale;
};

constexpr Tolerance kRows{2e-5, 2e-5};  // a few roundings of values up to 50
constexpr int kPixels = 21;             // two groups of eight and a rest

}  // namespace

TEST_CASE("row loops load and store what operand.h says, in every instruction set") {
  for (const RowKernels* rows : runnable_kernels())
    for (int channels : {1, 3, 8, 13, 37})
      for (Activation act :
           {Activation::none, Activation::relu, Activation::relu6, Activation::silu})
        for (bool gated : {false, true}) {
          const bool scaled = !gated && act != Activation::none;  // a load ignores act then
          CAPTURE(rows->name);
          CAPTURE(channels);
          const int pitch = channels + 5;
          const Constants k(channels);
          const auto x = random_values(kPixels * pitch, 9),
                     df = random_values(kPixels * channels, 10);
          const auto old = random_values(kPixels * pitch, 11);
          const OperandRows in{.x = x.data(),
                               .pitch = pitch,
                               .channels = channels,
                               .norm = k.row(),
                               .act = act,
                               .gate = gated ? k.gate.data() : nullptr,
                               .mask = nullptr};
          std::vector<float> f(kPixels * channels), f2(f), dy(f), grad = old,
                                                                  sums(3 * padded(channels));
          rows->load_operand(f.data(), channels, in, kPixels);
          rows->store_gradient({.grad = grad.data(),
                                .pitch = pitch,
                                .add = true,
                                .gated = gated,
                                .sums = {sums.data(), sums.data() + padded(channels),
                                         sums.data() + 2 * padded(channels)},
                                .f = f2.data(),
                                .f_pitch = channels},
                               df.data(), channels, in, kPixels);
          rows->load_gradient(dy.data(), channels,
                              {.grad = old.data(),
                               .x = x.data(),
                               .pitch = pitch,
                               .channels = channels,
                               .norm = k.row(),
                               .k0 = k.k0.data(),
                               .k1 = k.k1.data(),
                               .scaled = scaled,
                               .gate = gated ? k.gate.data() : nullptr,
                               .q = k.q.data(),
                               .act = act},
                              kPixels);

          std::vector<double> want_f, want_dy, want_grad(old.begin(), old.end()),
              want_sums(sums.size());
          for (int p = 0; p < kPixels; ++p)
            for (int c = 0; c < channels; ++c) {
              const int at = p * pitch + c;
              const double d = df[p * channels + c], g = gated ? k.gate[c] : 1;
              const Loaded<double> l = load_operand<double>(x[at], k.norm(c), act);
              want_f.push_back(l.h * g);
              want_dy.push_back(load_gradient<double>(old[at], x[at], k.norm(c), k.k0[c], k.k1[c],
                                                      scaled, gated, act, g, k.q[c]));
              const double t = d * l.slope;
              const double terms[3] = {gated ? d * l.h : t, gated ? t : t * l.xhat,
                                       gated ? t * l.xhat : 0};
              for (int s = 0; s < 3; ++s) want_sums[s * padded(channels) + c] += terms[s];
              want_grad[at] += gated ? d : k.norm(c).scale() * t;
            }
          const auto close = [](const std::vector<float>& ours, const std::vector<double>& theirs,
                                const char* what) {
            expect_close(std::vector<double>(ours.begin(), ours.end()), theirs, kRows, what);
          };
          close(f, want_f, "f");
          close(f2, want_f, "f beside the gradient");
          close(dy, want_dy, "dy");
          close(grad, want_grad, "gradient; the slice's neighbours must stay");
          for (int s = 0; s < 3; ++s)
            std::fill_n(&sums[s * padded(channels)] + channels, padded(channels) - channels, 0.f);
          expect_close(std::vector<double>(sums.begin(), sums.end()), want_sums, {1e-4, 1e-4},
                       "sums of 21 terms");
        }
}

TEST_CASE("SiLU is accurate to a few ulp everywhere, and keeps NaN") {
  for (const RowKernels* rows : runnable_kernels()) {
    CAPTURE(rows->name);
    std::vector<float> x;
    for (float u = -86; u < 86; u += 0.013f) x.push_back(u);
    x.push_back(std::numeric_limits<float>::quiet_NaN());
    const int n = static_cast<int>(x.size());
    const std::vector<float> zero(padded(n)), one(padded(n), 1.f);
    std::vector<float> f(n);
    rows->load_operand(f.data(), n,
                       {.x = x.data(),
                        .pitch = n,
                        .channels = n,
                        .norm = {zero.data(), one.data(), one.data(), zero.data()},
                        .act = Activation::silu,
                        .gate = nullptr,
                        .mask = nullptr},
                       1);
    double worst = 0;
    for (int i = 0; i + 1 < n; ++i) {
      const double exact = x[i] / (1 + std::exp(-static_cast<double>(x[i])));
      worst = test::worse(worst, std::abs(f[i] - exact) / std::max(std::abs(exact), 1e-30));
    }
    CHECK(worst < 5e-7);
    CHECK(std::isnan(f[n - 1]));
  }
}

TEST_CASE("depthwise rows: sums over taps, and no write beside the slice") {
  for (const RowKernels* rows : runnable_kernels())
    for (int channels : {1, 7, 16, 40})
      for (int stride : {1, 2}) {
        CAPTURE(rows->name);
        constexpr int kKernel = 3, kWidth = 6;
        const int64_t pixel = padded(channels), columns = (kWidth - 1) * stride + kKernel;
        const auto a = random_values(columns * pixel, 1), b = random_values(columns * pixel, 2);
        const auto taps = random_values(2 * kKernel * pixel, 3),
                   dy = random_values(kWidth * pixel, 4);
        const float* in[] = {a.data(), b.data()};
        const float* weights[] = {taps.data(), taps.data() + kKernel * pixel};
        const int pitch = channels + 3;
        std::vector<float> y(kWidth * pitch, 7.f), dtaps(kKernel * pixel);
        std::vector<float> want = y, want_dtaps(dtaps);
        rows->correlate({.out = y.data(),
                         .out_step = pitch,
                         .width = kWidth,
                         .channels = channels,
                         .rows = in,
                         .taps = weights,
                         .count = 2,
                         .kernel = kKernel,
                         .stride = stride});
        rows->correlate_taps(dtaps.data(), a.data(), dy.data(), kWidth, channels, kKernel, stride);
        for (int c = 0; c < channels; ++c)
          for (int o = 0; o < kWidth; ++o) {
            double sum = 0;
            for (int i = 0; i < 2; ++i)
              for (int t = 0; t < kKernel; ++t) {
                sum += in[i][(o * stride + t) * pixel + c] * weights[i][t * pixel + c];
                if (i == 0)
                  want_dtaps[t * pixel + c] += a[(o * stride + t) * pixel + c] * dy[o * pixel + c];
              }
            want[o * pitch + c] = static_cast<float>(sum);
          }
        for (int t = 0; t < kKernel; ++t)
          std::fill_n(&dtaps[t * pixel] + channels, pixel - channels, 0.f);
        expect_close(y, want, kRows, "y");
        expect_close(dtaps, want_dtaps, kRows, "dtaps");
      }
}

TEST_CASE("statistics do not cancel when the mean is 10,000 standard deviations away") {
  constexpr int kChannels = 5, kCount = 3000;
  auto y = random_values(kCount * kChannels, 1, 999.9f, 1000.1f);
  const std::vector<float> dense = y;
  std::vector<float> mean(kChannels), var(kChannels);
  const SliceView<float> out{.y = y.data(),
                             .batch = 1,
                             .height = 1,
                             .width = kCount,
                             .channels = kChannels,
                             .pitch = kChannels,
                             .mean = mean.data(),
                             .var = var.data()};
  std::vector<std::byte> memory(1 << 20);
  Workspace workspace(memory.data(), memory.size(), "test");
  std::vector<OutputWriter> workers;
  for (int w = 0; w < 3; ++w) {
    workers.emplace_back(out, nullptr, workspace);
    workers[w].renew();
    const Share share = share_of(kCount, w, 3);
    workers[w].store(dense.data() + share.first * kChannels, kChannels, nullptr, 0, share.first,
                     share.last);
  }
  OutputWriter::merge(workers);
  for (int c = 0; c < kChannels; ++c) {
    double exact_mean = 0, exact_var = 0;
    for (int i = 0; i < kCount; ++i) exact_mean += dense[i * kChannels + c] / double{kCount};
    for (int i = 0; i < kCount; ++i)
      exact_var += std::pow(dense[i * kChannels + c] - exact_mean, 2) / kCount;
    CHECK(std::abs(mean[c] - exact_mean) < 1e-4);
    CHECK(std::abs(var[c] / exact_var - 1) < 1e-5);
  }
}

TEST_CASE("a workspace makes as many workers as fit") {
  struct Worker {
    float* tile;
    double* sums;
  };
  const auto make = [](Workspace& own, int) {
    return Worker{own.take<float>(17), own.take<double>(3)};
  };
  constexpr size_t kEach = 128 + 64;  // in cache lines
  std::vector<std::byte> memory(4 * kEach);
  const auto made = [&](size_t cap, int wanted) {
    return Workspace(memory.data(), cap, "test").workers(wanted, make);
  };
  CHECK(made(4 * kEach, 3).size() == 3);
  CHECK(made(3 * kEach, 3).size() == 3);
  CHECK(made(3 * kEach - 1, 3).size() == 2);
  const std::vector<Worker> workers = made(2 * kEach, 7);
  REQUIRE(workers.size() == 2);
  const auto* first = reinterpret_cast<float*>(memory.data());
  CHECK(workers[0].tile == first);
  CHECK(workers[1].tile == first + kEach / sizeof(float));
  CHECK(message_of([&] { made(kEach - 1, 7); }, Failure::memory) ==
        "test: needs 0.0 MiB of workspace, the cap is 0.0 MiB");
}

TEST_CASE("the CPU backend gives the same bits twice") {
  for (const StepCase& row : step_cases()) {
    const Graph graph = make_graph(row, {.channels = 8, .batch = 5, .height = 6, .width = 6});
    const auto backend = make_cpu_backend({.threads = 2});
    const StepOutcome first = run_step(graph, 5, *backend, {}),
                      second = run_step(graph, 5, *backend, {});
    CHECK_MESSAGE(first.values == second.values, row.name);
  }
}

TEST_CASE("a backend of one thread starts no other") {
  const auto tasks = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                         std::filesystem::directory_iterator());
  };
  std::ptrdiff_t before = 0, after = 0;
  std::thread([&] {  // which has no team of threads yet
    before = tasks();
    const auto backend = make_cpu_backend({.threads = 1});
    for (const StepCase& row : step_cases())  // oneDNN divides what is large enough
      run_step(make_graph(row, {.channels = 48, .batch = 1}), 1, *backend, {});
    after = tasks();
  })
      .join();
  CHECK(after == before);
}

TEST_CASE("more threads than images change nothing but rounding") {
  const auto backend = make_cpu_backend({.threads = 7});
  check_steps(*backend, {}, {.error = 1e-5});
}

TEST_CASE("what the CPU backend refuses, it names") {
  const auto failure_of = [](const auto& body) {
    try {
      body();
    } catch (const Error& error) {
      return error.kind;
    }
    return Failure::internal;
  };
  CHECK(failure_of([] { make_cpu_backend({.precision = Precision::fp16}); }) == Failure::usage);
  const Graph graph = make_graph(step_cases().front(), {});
  const auto backend = make_cpu_backend({.threads = 1});
  const auto prepare = [&](size_t workspace) {
    SessionOptions options{.programs = {{2, Mode::train}}};
    options.workspace = workspace;
    Session(graph, *backend, options).prepare();
  };
  CHECK(failure_of([&] { prepare(1024); }) == Failure::memory);
  CHECK_NOTHROW(prepare(1 << 20));
}

TEST_CASE("row loops keep NaN: activations, slopes, maxima") {
  const float nan = std::nanf("");
  for (const RowKernels* rows : runnable_kernels())
    for (const int channels : {1, 3, 8, 37}) {
      CAPTURE(rows->name);
      const Constants k(channels);
      std::vector<float> x = random_values(channels, 9), f(channels);
      x.back() = nan;
      for (Activation act :
           {Activation::none, Activation::relu, Activation::relu6, Activation::silu}) {
        rows->load_operand(
            f.data(), channels,
            {.x = x.data(), .pitch = channels, .channels = channels, .norm = k.row(), .act = act},
            1);
        for (int c = 0; c < channels; ++c) CHECK(std::isnan(f[c]) == std::isnan(x[c]));
      }

      // The largest of three, of which NaN is one: first, in the middle, last.
      for (int place = 0; place < 3; ++place) {
        std::vector<std::vector<float>> taps;
        for (uint64_t seed : {1, 2, 3}) taps.push_back(random_values(channels, seed));
        taps[place].back() = nan;
        std::vector<float> best(channels, -std::numeric_limits<float>::infinity());
        for (const auto& tap : taps) rows->maximum(best.data(), tap.data(), channels);
        CHECK(std::isnan(best.back()));
        for (int c = 0; c + 1 < channels; ++c)
          CHECK(best[c] == std::max({taps[0][c], taps[1][c], taps[2][c]}));
        std::vector<float> left(channels, 1);
        for (int tap = 0; tap < 3; ++tap) {
          std::vector<float> df(channels, 0);
          rows->route_maximum(df.data(), left.data(), taps[tap].data(), best.data(), channels);
          CHECK(df.back() == 0);  // whose place the caller finds
        }
        CHECK(left.back() == 1);
        left.pop_back();
        CHECK(std::ranges::all_of(left, [](float v) { return v == 0; }));
      }
    }
}
