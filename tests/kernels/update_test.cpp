// One step of every optimizer, worked out by hand; engine/adam_test.cpp compares whole traces
// with PyTorch's.
#include "kernels/update.h"

#include "tests/support.h"

using namespace engine;

namespace {

struct Moved {
  double w, m, v = 0;
};

Moved adam(Moved at, double g, const AdamStep& step) {
  double moments[] = {at.m, at.v};
  update(at.w, moments, g, step);
  return {at.w, moments[0], moments[1]};
}

Moved sgd(Moved at, double g, const SgdStep& step) {
  double moments[] = {at.m};
  update(at.w, moments, g, step);
  return {at.w, moments[0]};
}

}  // namespace

TEST_CASE("Adam's first step moves by the learning rate whatever the gradient") {
  for (double g : {1e-4, 1., -300.}) {
    const Moved to = adam({2, 0}, g, {0.01, 0.1, 0.001, 0.9, 0.999, 0., 0.});
    CHECK(to.m == doctest::Approx(0.1 * g));
    CHECK(to.v == doctest::Approx(0.001 * g * g));
    CHECK(to.w == doctest::Approx(2 - (g > 0 ? 0.01 : -0.01)).epsilon(1e-12));
  }
}

TEST_CASE("Adam divides by the root plus eps, and leaves a weight without gradient") {
  const Moved stays = adam({2, 0}, 0., {0.01, 0.1, 0.001, 0.9, 0.999, 1e-8, 0.});
  CHECK(stays.w == 2);
  const Moved to = adam({2, 0}, 0.5, {0.01, 0.19, 0.001999, 0.9, 0.999, 0.1, 0.});
  const double root = std::sqrt(0.001 * 0.25) / std::sqrt(0.001999);
  CHECK(to.w == doctest::Approx(2 - 0.01 / 0.19 * 0.05 / (root + 0.1)).epsilon(1e-12));
}

TEST_CASE("weight decay is added to the gradient, and AdamW's is not") {
  const AdamStep step{0.01, 0.1, 0.001, 0.9, 0.999, 1e-8, 0.1};
  CHECK(adam({2, 0}, -0.2, step).w == 2);  // −0.2 + 0.1·2 = 0
  AdamStep decoupled = step;
  decoupled.decoupled = true;
  const Moved to = adam({2, 0}, 0., decoupled);
  CHECK(to.w == doctest::Approx(2 - 0.01 * 0.1 * 2).epsilon(1e-12));
  CHECK(to.m == 0);
  CHECK(sgd({2, 0}, 1., {0.1, 0.9, 0.5, false, true}).w == doctest::Approx(2 - 0.1 * 2));
}

TEST_CASE("SGD's momentum starts with the first gradient") {
  const Moved first = sgd({1, 77}, 2., {0.1, 0.9, 0., false, true});  // whatever was there
  CHECK(first.m == 2);
  CHECK(first.w == doctest::Approx(0.8));
  const Moved second = sgd(first, 1., {0.1, 0.9, 0., false, false});
  CHECK(second.m == doctest::Approx(2.8));
  CHECK(second.w == doctest::Approx(0.52));
}

TEST_CASE("Nesterov's momentum looks one step ahead") {
  const Moved to = sgd({1, 2}, 1., {0.1, 0.5, 0., true, false});
  CHECK(to.m == doctest::Approx(2));
  CHECK(to.w == doctest::Approx(1 - 0.1 * (1 + 0.5 * 2)));
}

TEST_CASE("RMSprop divides by the root of the mean square, then adds momentum") {
  double w = 1, plain[] = {0.04};
  update(w, plain, 0.5, RmspropStep<false>{0.1, 0.75, 0.1, 0, 0});
  const double v = 0.75 * 0.04 + 0.25 * 0.25, step = 0.5 / (std::sqrt(v) + 0.1);
  CHECK(plain[0] == doctest::Approx(v));
  CHECK(w == doctest::Approx(1 - 0.1 * step));
  double moments[] = {0.04, 3};
  w = 1;
  update(w, moments, 0.5, RmspropStep<true>{0.1, 0.75, 0.1, 0.5, 0});
  CHECK(moments[1] == doctest::Approx(1.5 + step));
  CHECK(w == doctest::Approx(1 - 0.1 * (1.5 + step)));
}

TEST_CASE("the clip factor is PyTorch's") {
  CHECK(clip_factor(5, 0) == 1);
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(4, 1) == 1 / (4 + 1e-6));
  CHECK(clip_factor(INFINITY, 1) == 0);
  CHECK(std::isnan(clip_factor(NAN, 1)));
}

TEST_CASE("an average stays where it equals the value") {
  CHECK(averaged(0.1f, 0.1f, 0.9999) == 0.1f);
  CHECK(averaged(1., 2., 0.75) == 1.25);
}
