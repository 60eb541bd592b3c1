// The formulas of kernels/operand.h by themselves: slopes, norms and gates, and that loading and
// storing a gradient amount to the textbook backward of a batch norm.
#include "kernels/operand.h"

#include <algorithm>
#include <vector>

#include "engine/rng.h"
#include "kernels/reference.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("activations and their slopes") {
  for (double u : {-30., -2., -0.3, 0.4, 1., 7., 40.}) {
    for (Activation act :
         {Activation::none, Activation::relu, Activation::relu6, Activation::silu}) {
      constexpr double kStep = 1e-6;
      const double numeric =
          (activate(act, u + kStep).h - activate(act, u - kStep).h) / (2 * kStep);
      CHECK(activate(act, u).slope == doctest::Approx(numeric).epsilon(1e-7));
    }
    CHECK(activate(Activation::none, u).h == u);
    CHECK(activate(Activation::relu, u).h == (u > 0 ? u : 0));
    CHECK(activate(Activation::relu6, u).h == std::min(std::max(u, 0.), 6.));
    CHECK(activate(Activation::silu, u).h == doctest::Approx(u / (1 + std::exp(-u))));
  }
  // PyTorch's ReLU has slope 0 at 0, its ReLU6 at 6 too; large values do not overflow.
  CHECK(activate(Activation::relu, 0.).slope == 0);
  CHECK(activate(Activation::relu6, 0.).slope == 0);
  CHECK(activate(Activation::relu6, 6.).slope == 0);
  CHECK(activate(Activation::silu, -200.f).h == 0);
  CHECK(activate(Activation::silu, -200.f).slope == 0);
  CHECK(activate(Activation::silu, 200.f).h == 200.f);
}

// As torch.nn.functional does, forward and backward.
TEST_CASE_TEMPLATE("activations leave NaN as it is", R, float, double) {
  const R nan = std::numeric_limits<R>::quiet_NaN(), inf = std::numeric_limits<R>::infinity();
  for (Activation act : {Activation::none, Activation::relu, Activation::relu6, Activation::silu})
    CHECK(std::isnan(activate(act, nan).h));
  CHECK(activate(Activation::relu, nan).slope == 1);
  CHECK(activate(Activation::relu6, nan).slope == 1);
  CHECK(std::isnan(activate(Activation::silu, nan).slope));
  CHECK(activate(Activation::relu, inf).h == inf);
  CHECK(activate(Activation::relu, -inf).h == 0);
  CHECK(activate(Activation::relu6, inf).h == 6);
  CHECK(std::isnan(activate(Activation::silu, -inf).h));
}

TEST_CASE("a channel without a norm leaves the value as it is") {
  const ChannelNorm<float> none = NormView<float>{}.channel(3);
  CHECK(load_operand(1.5f, none, Activation::none).h == 1.5f);
  const float mean[] = {1, 2}, var[] = {4, 9}, gamma[] = {3, 5}, beta[] = {0.5f, -1};
  const NormView<float> norm{mean, var, gamma, beta, 0};
  CHECK(norm.present());
  CHECK(load_operand(8.f, norm.channel(1), Activation::none).xhat == doctest::Approx(2));
  CHECK(load_operand(8.f, norm.channel(1), Activation::none).h == doctest::Approx(9));
  CHECK(load_operand(-7.f, norm.channel(1), Activation::relu).h == 0);
  const NormView<float> statistics{mean, var, nullptr, nullptr, 0};  // as a gradient reads it
  CHECK(statistics.channel(0).scale() == doctest::Approx(0.5));
}

TEST_CASE("random gates keep the mean and follow the key") {
  StepParams params{.seed = 3, .epoch = 1, .position = 64};
  const RandomGate dropout{0.7f, false, purpose("drop"), &params};
  const RandomGate depth{0.7f, true, purpose("depth"), &params};
  CHECK_FALSE(RandomGate{}.present());
  double mean = 0, images = 0;
  constexpr int kImages = 2000, kElements = 20;
  for (int n = 0; n < kImages; ++n) {
    for (uint32_t e = 0; e < kElements; ++e) {
      const float factor = dropout.value(n, e);
      CHECK((factor == 0 || factor == 1 / 0.7f));
      mean += factor;
      CHECK(depth.value(n, e) == depth.value(n, 0));
    }
    images += depth.value(n, 0);
  }
  // Five standard deviations of a mean: 5·√((1 − p)/p / count).
  CHECK(mean / (kImages * kElements) == doctest::Approx(1).epsilon(0.017));
  CHECK(images / kImages == doctest::Approx(1).epsilon(0.075));

  // The key holds the position in the epoch, so a rank's share of a batch draws the same numbers.
  StepParams share = params;
  share.position += 5;
  const RandomGate shifted{0.7f, false, purpose("drop"), &share};
  for (uint32_t e = 0; e < 200; ++e) CHECK(shifted.value(2, e) == dropout.value(7, e));
}

// dx of y = gamma·xhat + beta for one reader, from the formula of Ioffe & Szegedy, against the raw
// gradient with k0 and k1.
TEST_CASE("k0 and k1 are the two terms of a batch norm's backward") {
  constexpr int kPixels = 12, kChannels = 3;
  Rng rng({.seed = 2});
  std::vector<double> x(kPixels * kChannels), df(x.size()), grad(x.size());
  for (double& v : x) v = rng.uniform(-1, 3);
  for (double& v : df) v = rng.uniform(-1, 1);
  std::vector<double> mean(kChannels), var(kChannels);
  for (int c = 0; c < kChannels; ++c) {
    for (int p = 0; p < kPixels; ++p) mean[c] += x[p * kChannels + c] / kPixels;
    for (int p = 0; p < kPixels; ++p)
      var[c] += std::pow(x[p * kChannels + c] - mean[c], 2) / kPixels;
  }
  const std::vector<double> gamma = {0.5, 1, 2}, beta = {0, 1, -1};
  const double eps = 1e-3;
  const OperandView<double> in{.x = x.data(),
                               .batch = 1,
                               .height = 3,
                               .width = 4,
                               .channels = kChannels,
                               .pitch = kChannels,
                               .norm = {mean.data(), var.data(), gamma.data(), beta.data(), eps}};
  std::vector<double> dgamma(kChannels), dbeta(kChannels), k0(kChannels), k1(kChannels);
  reference::store_gradient<double>({.grad = grad.data(),
                                     .pitch = kChannels,
                                     .dgamma = dgamma.data(),
                                     .dbeta = dbeta.data(),
                                     .k0 = k0.data(),
                                     .k1 = k1.data()},
                                    df, in);
  const auto dx =
      reference::load_gradient<double>({.grad = grad.data(),
                                        .x = x.data(),
                                        .batch = 1,
                                        .height = 3,
                                        .width = 4,
                                        .channels = kChannels,
                                        .pitch = kChannels,
                                        .norm = {mean.data(), var.data(), nullptr, nullptr, eps},
                                        .k0 = k0.data(),
                                        .k1 = k1.data()});
  for (int c = 0; c < kChannels; ++c) {
    const double inv_std = 1 / std::sqrt(var[c] + eps);
    double sum = 0, sum_xhat = 0;
    const auto xhat = [&](int p) { return (x[p * kChannels + c] - mean[c]) * inv_std; };
    for (int p = 0; p < kPixels; ++p) {
      sum += df[p * kChannels + c];
      sum_xhat += df[p * kChannels + c] * xhat(p);
    }
    CHECK(dbeta[c] == doctest::Approx(sum).epsilon(1e-12));
    CHECK(dgamma[c] == doctest::Approx(sum_xhat).epsilon(1e-12));
    for (int p = 0; p < kPixels; ++p) {
      const double expected = gamma[c] * inv_std / kPixels *
                              (kPixels * df[p * kChannels + c] - sum - xhat(p) * sum_xhat);
      CHECK(std::abs(dx[p * kChannels + c] - expected) <= 1e-14);
    }
  }
}

TEST_CASE(
    "a gated gradient is gamma·inv_std·(dz·s + q)·act' less its two terms, a scaled one "
    "gamma·inv_std times a sum's") {
  const ChannelNorm<double> norm{0.3, 1.7, 0.8, -0.2};
  const double x = 1.1, dz = 0.6, gate = 0.4, q = -0.3, k0 = 0.05, k1 = 0.02;
  const double xhat = (x - 0.3) * 1.7, slope = activate(Activation::silu, 0.8 * xhat - 0.2).slope;
  CHECK(load_gradient(dz, x, norm, k0, k1, false, true, Activation::silu, gate, q) ==
        doctest::Approx(0.8 * 1.7 * (dz * gate + q) * slope - k0 - k1 * xhat).epsilon(1e-14));
  CHECK(load_gradient(dz, x, norm, k0, k1, false, false, Activation::none, gate, q) ==
        doctest::Approx(dz - k0 - k1 * xhat).epsilon(1e-14));
  CHECK(load_gradient(dz, x, norm, k0, k1, true, false, Activation::none, gate, q) ==
        doctest::Approx(0.8 * 1.7 * dz - k0 - k1 * xhat).epsilon(1e-14));
}
