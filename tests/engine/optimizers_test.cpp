// The update on the reference backend; parameter groups and averages of a session.
#include "engine/error.h"
#include "tests/engine/optimizer_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("the reference's optimizers follow torch.optim") {
  for (Precision precision : {Precision::fp64, Precision::fp32})
    check_optimizer_traces(*make_reference_backend({.precision = precision}), precision);
}

TEST_CASE("shares of a batch add up on the reference") {
  check_accumulation(*make_reference_backend({.precision = Precision::fp64}), Precision::fp64,
                     1e-12);
  check_accumulation(*make_reference_backend({}), Precision::fp32, 1e-6);
}

TEST_CASE("ranks that accumulate train as one on the reference") {
  check_accumulation_in_parallel(2, [](const Communicator& communicator) {
    return make_reference_backend({.communicator = communicator});
  });
}

TEST_CASE("training of the head alone on the reference") {
  check_frozen(*make_reference_backend({.precision = Precision::fp64}), Precision::fp64);
}

TEST_CASE("a recipe with everything on the reference") {
  for (Precision precision : {Precision::fp64, Precision::fp32})
    check_recipe(*make_reference_backend({.precision = precision}), precision);
}

TEST_CASE("norms and biases are what usual recipes do not decay") {
  const auto decays = [](Parameter::Kind kind) { return decays_weight({.kind = kind}); };
  CHECK(decays(Parameter::Kind::weight));
  CHECK_FALSE(decays(Parameter::Kind::gain));
  CHECK_FALSE(decays(Parameter::Kind::offset));
}

TEST_CASE("a session takes as many groups as its table holds") {
  Graph g("wide", 1e-5, 0.1);
  Value v = g.input(1, 1, 2);
  for (int i = 0; i < kMaxParameterGroups; ++i)
    v = g.conv(v, "conv" + std::to_string(i), {.out = 2});
  g.cross_entropy(g.linear(v, "fc", 2));
  const auto backend = make_reference_backend({});
  SessionOptions options{.programs = {{1, Mode::train}}};
  double rate = 0;
  options.rule = [&](const Parameter&) { return ParameterRule{rate += 1}; };
  CHECK_THROWS_WITH_AS(Session(g, *backend, options),
                       "parameters have more than 256 different learning rates and weight decays",
                       Error);
  options.rule = [](const Parameter& p) {
    return ParameterRule{p.name.starts_with("conv") ? std::stod(p.name.substr(4)) : 1};
  };
  const Session session(g, *backend, options);
  CHECK(session.allocated_bytes() == session.plan().totals(g, {}).sum());
}
