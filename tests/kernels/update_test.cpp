// One step of Adam and of SGD, worked out by hand; whole traces of PyTorch's: engine/adam_test.cpp.
#include "kernels/update.h"

#include "tests/support.h"

using namespace engine;

TEST_CASE("Adam's first step moves by the learning rate whatever the gradient") {
  for (double g : {1e-4, 1., -300.}) {
    double w = 2, m = 0, v = 0;
    adam(w, m, v, g, {0.01, 0.1, 0.001, 0.9, 0.999, 0., 0.});
    CHECK(m == doctest::Approx(0.1 * g));
    CHECK(v == doctest::Approx(0.001 * g * g));
    CHECK(w == doctest::Approx(2 - (g > 0 ? 0.01 : -0.01)).epsilon(1e-12));
  }
}

TEST_CASE("Adam divides by the root plus eps, and leaves a weight without gradient") {
  double w = 2, m = 0, v = 0;
  adam(w, m, v, 0., {0.01, 0.1, 0.001, 0.9, 0.999, 1e-8, 0.});
  CHECK(w == 2);
  adam(w, m, v, 0.5, {0.01, 0.19, 0.001999, 0.9, 0.999, 0.1, 0.});
  const double root = std::sqrt(0.001 * 0.25) / std::sqrt(0.001999);
  CHECK(w == doctest::Approx(2 - 0.01 / 0.19 * 0.05 / (root + 0.1)).epsilon(1e-12));
}

TEST_CASE("weight decay is added to the gradient") {
  double w = 2, m = 0, v = 0;
  adam(w, m, v, -0.2, {0.01, 0.1, 0.001, 0.9, 0.999, 1e-8, 0.1});  // −0.2 + 0.1·2 = 0
  CHECK(w == 2);
  double moved = 2, momentum = 0;
  sgd(moved, momentum, 1., {0.1, 0.9, 0.5, true});
  CHECK(moved == doctest::Approx(2 - 0.1 * 2));
}

TEST_CASE("SGD's momentum starts with the first gradient") {
  double w = 1, m = 77;  // whatever was there
  sgd(w, m, 2., {0.1, 0.9, 0., true});
  CHECK(m == 2);
  CHECK(w == doctest::Approx(0.8));
  sgd(w, m, 1., {0.1, 0.9, 0., false});
  CHECK(m == doctest::Approx(2.8));
  CHECK(w == doctest::Approx(0.52));
}
