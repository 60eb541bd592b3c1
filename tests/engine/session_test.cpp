// Behaviour of a session on the reference backend: it learns, resumes to the bit, scales the loss
// as PyTorch's GradScaler, keeps evaluation apart from training.
#include "engine/session.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "engine/error.h"
#include "kernels/update.h"
#include "models/models.h"
#include "tests/engine/step_cases.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kSmallSize = 9, kSmallClasses = 6;

// A miniature of EfficientNet with everything that is random or has state.
Graph small_graph() {
  Graph g("small", 1e-5, 0.1);
  Value v =
      g.conv(g.input(kSmallSize, kSmallSize, 3), "stem", {.out = 8, .kernel = 3, .stride = 2});
  v = g.conv(g.silu(g.batch_norm(v, "stem.norm")), "reduce", {.out = 6});
  Value y = g.conv(g.silu(g.batch_norm(v, "reduce.norm")), "depthwise",
                   {.out = 6, .kernel = 3, .depthwise = true});
  y = g.silu(g.batch_norm(y, "depthwise.norm"));
  y = g.conv(g.scale(y, g.squeeze_excite(y, "se", 2)), "project", {.out = 6});
  y = g.stochastic_depth(g.batch_norm(y, "project.norm"), "depth", 0.2f);
  v = g.global_pool(g.relu(g.add(y, v, "add")), "pool");
  g.cross_entropy(g.linear(g.dropout(v, "drop", 0.2f), "head", kSmallClasses));
  return g;
}

struct Data {
  std::vector<uint8_t> images;
  std::vector<int32_t> labels;
  HostBatch batch() const {
    return {images.data(), labels.data(), static_cast<int>(labels.size())};
  }
};

Data small_data(int count, uint64_t seed) {
  return {random_bytes(size_t(count) * kSmallSize * kSmallSize * 3, seed),
          random_labels(count, kSmallClasses, seed)};
}

const Normalisation kNormalisation{{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};

struct SmallRun {
  explicit SmallRun(SessionOptions options = {}, Precision precision = Precision::fp32)
      : backend(make_reference_backend({.precision = precision})),
        session(small_graph(), *backend, complete(std::move(options), precision)) {
    session.initialise(1);
  }

  static SessionOptions complete(SessionOptions options, Precision precision) {
    if (options.programs.empty())
      options.programs = {{4, Mode::train}, {4, Mode::evaluate}, {4, Mode::gradients}};
    options.precision = precision;
    options.normalisation = kNormalisation;
    return options;
  }

  void train(int first, int last) {
    for (int step = first; step < last; ++step)
      session.train(small_data(4, step).batch(),
                    {.epoch = 0, .position = 4u * step, .learning_rate = 0.01});
  }

  std::unique_ptr<Backend> backend;
  Session session;
};

bool equal(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.bytes == y.second.bytes;
  });
}

}  // namespace

// ---------------------------------------------------------------- learning

TEST_CASE("training learns eight random images by heart") {
  Graph g("tiny", 1e-5, 0.1);
  Value v =
      g.conv(g.input(kSmallSize, kSmallSize, 3), "conv1", {.out = 8, .kernel = 3, .bias = true});
  v = g.max_pool(g.relu(v), "pool", 2, 2);
  v = g.relu(g.batch_norm(g.conv(v, "conv2", {.out = 16, .kernel = 3}), "norm2"));
  g.cross_entropy(g.linear(v, "fc", kSmallClasses));
  const auto backend = make_reference_backend({});
  Session session(
      g, *backend,
      {.programs = {{8, Mode::train}, {8, Mode::evaluate}}, .normalisation = kNormalisation});
  session.initialise(3);
  const Data data = small_data(8, 1);
  uint64_t step = 0;
  const double first = session.result(session.train(data.batch(), {.learning_rate = 0})).loss;
  for (int i = 0; i < 150; ++i) step = session.train(data.batch(), {.learning_rate = 0.01});
  const StepResult last = session.result(step);
  CHECK(first > 1);
  CHECK(last.loss < 0.01);
  CHECK(last.correct1 == 8);
  CHECK(last.correct5 == 8);
  CHECK(last.step == step);
  StepResult evaluated;
  session.evaluate(data.batch(), {}, &evaluated);  // running statistics have followed
  CHECK(evaluated.correct1 == 8);
  CHECK(evaluated.loss < 0.05);
}

// ---------------------------------------------------------------- determinism and state

TEST_CASE("the same seed gives the same bits, another gives others") {
  SmallRun a({.seed = 1}), b({.seed = 1}), c({.seed = 2});
  for (SmallRun* run : {&a, &b, &c}) run->train(0, 6);
  CHECK(equal(a.session.state(), b.session.state()));
  CHECK_FALSE(equal(a.session.state(), c.session.state()));
}

TEST_CASE("random gates depend on epoch and position, on nothing else") {
  SmallRun run;
  const Data data = small_data(4, 1);
  const auto loss = [&](uint32_t epoch, uint32_t position) {
    const StepInput input{.epoch = epoch, .position = position};
    return run.session.result(run.session.gradients(data.batch(), input)).loss;
  };
  const double here = loss(1, 8);
  CHECK(loss(1, 12) != here);
  CHECK(loss(2, 8) != here);
  CHECK(loss(1, 8) == here);
}

TEST_CASE("a state survives the round trip, counters included") {
  SmallRun run;
  auto tensors = random_state(run.session.graph(), 7);
  for (const Norm& norm : run.session.graph().norms) {
    Tensor counter(DType::i64, {});
    counter.as<int64_t>()[0] = 41;
    tensors[norm.name + ".num_batches_tracked"] = std::move(counter);
  }
  run.session.load(tensors);
  CHECK(equal(run.session.state(), tensors));
  run.train(0, 2);
  const auto after = run.session.state();
  CHECK(after.size() == tensors.size());
  CHECK(after.at("stem.norm.num_batches_tracked").as<int64_t>()[0] == 43);
  CHECK_FALSE(equal(after, tensors));
}

TEST_CASE("what does not fit the model is refused with its name") {
  SmallRun run;
  auto tensors = random_state(run.session.graph(), 7);
  tensors["se.fc1.bias"] = Tensor(DType::f32, {3});
  CHECK_THROWS_WITH_AS(run.session.load(tensors), "se.fc1.bias: the model has [2], the file [3]",
                       Error);
  tensors.erase("se.fc1.bias");
  CHECK_THROWS_WITH_AS(run.session.load(tensors), "no tensor se.fc1.bias", Error);
  auto moments = run.session.optimizer_state();
  moments.erase("moment2.head.weight");
  CHECK_THROWS_WITH_AS(run.session.load_optimizer_state(moments),
                       "the checkpoint has no moment2.head.weight", Error);
}

TEST_CASE("a resumed training continues to the bit") {
  using Kind = OptimizerConfig::Kind;
  for (Kind kind : {Kind::adam, Kind::sgd}) {
    const SessionOptions options{.optimizer = {.kind = kind, .weight_decay = 1e-3}, .seed = 3};
    SmallRun whole(options), first(options), second(options);
    whole.train(0, 9);
    first.train(0, 4);
    second.train(5, 8);  // something else before
    second.session.load(first.session.state());
    second.session.load_optimizer_state(first.session.optimizer_state());
    second.train(4, 9);
    CHECK(equal(second.session.state(), whole.session.state()));
    CHECK(equal(second.session.optimizer_state(), whole.session.optimizer_state()));
    CHECK(whole.session.scale().optimizer_steps == 9);
  }
}

TEST_CASE("a training may change its use of memory where it is resumed, and be inspected") {
  SessionOptions options{.seed = 3};
  SmallRun fast(options), whole(options);
  options.memory = MemoryUse::lean;
  SmallRun lean(options);
  REQUIRE(whole.session.plan().recomputed.empty());
  REQUIRE_FALSE(lean.session.plan().recomputed.empty());
  CHECK(lean.session.allocated_bytes() < whole.session.allocated_bytes());
  whole.train(0, 7);
  fast.train(0, 2);
  const auto go_on = [](SmallRun& from, SmallRun& to) {
    to.session.load(from.session.state());
    to.session.load_optimizer_state(from.session.optimizer_state());
  };
  go_on(fast, lean);
  lean.train(2, 4);
  const Inspection inspection = lean.session.inspect(
      small_data(4, 4).batch(), {.epoch = 0, .position = 16, .learning_rate = 0.01}, Mode::train);
  CHECK_FALSE(inspection.first.has_value());
  go_on(lean, fast);
  fast.train(5, 7);
  CHECK(equal(fast.session.state(), whole.session.state()));
  CHECK(equal(fast.session.optimizer_state(), whole.session.optimizer_state()));
}

TEST_CASE("evaluation leaves no trace in a training") {
  SmallRun with, without;
  with.train(0, 3);
  without.train(0, 3);
  const auto state = with.session.state(), moments = with.session.optimizer_state();
  const Data data = small_data(4, 50);
  const auto logits = with.session.evaluate(data.batch(), {});
  CHECK(logits.size() == 4 * kSmallClasses);
  CHECK(with.session.evaluate(data.batch(), {.epoch = 3, .position = 9}) == logits);  // no gates
  CHECK(equal(with.session.state(), state));
  CHECK(equal(with.session.optimizer_state(), moments));
  with.train(3, 6);
  without.train(3, 6);
  CHECK(equal(with.session.state(), without.session.state()));
}

TEST_CASE("gradients alone change no weight") {
  SmallRun run;
  const auto before = run.session.state();
  run.session.gradients(small_data(4, 1).batch(), {});
  const auto after = run.session.state();
  for (const Parameter& p : run.session.graph().parameters)
    CHECK((after.at(p.name).bytes == before.at(p.name).bytes) == p.trained());
  CHECK(run.session.scale().optimizer_steps == 0);
}

// ---------------------------------------------------------------- norms

TEST_CASE("frozen norms read the running statistics and leave them alone") {
  Graph g = make_model(
      "efficientnet_b0",
      {.classes = 5, .height = 32, .width = 32, .dropout = false, .stochastic_depth = false});
  const auto backend = make_reference_backend({.precision = Precision::fp64});
  Session session(g, *backend,
                  {.programs = {{2, Mode::train}, {2, Mode::evaluate}},
                   .precision = Precision::fp64,
                   .frozen_norms = true});
  const auto before = random_state(g, 1);
  session.load(before);
  const auto images = random_bytes(2 * 32 * 32 * 3, 1);
  const auto labels = random_labels(2, 5, 1);
  const HostBatch batch{images.data(), labels.data(), 2};
  const auto evaluated = session.evaluate(batch, {});
  session.train(batch, {.learning_rate = 1e-3});
  const auto trained = session.logits(2);
  CHECK(std::equal(evaluated.begin(), evaluated.end(), trained.begin(),
                   [](float a, double b) { return a == static_cast<float>(b); }));
  const auto after = session.state();
  for (const Parameter& p : g.parameters)
    CHECK_MESSAGE(
        (after.at(p.name).bytes == convert(before.at(p.name), DType::f64).bytes) == !p.trained(),
        p.name);
  CHECK(after.at("features.0.1.num_batches_tracked").as<int64_t>()[0] == 0);
}

// PyTorch: running += momentum · (now − running), with the unbiased variance.
TEST_CASE("running statistics move once per norm and step") {
  Graph g("norm", 1e-5, 0.25);
  const Value v = g.input(2, 1, 1);
  const Value x = g.conv(v, "c", {.out = 1});
  g.cross_entropy(
      g.linear(g.add(g.batch_norm(x, "n"), g.relu(g.batch_norm(x, "m")), "sum"), "fc", 2));
  const auto backend = make_reference_backend({.precision = Precision::fp64});
  Session session(g, *backend, {.programs = {{2, Mode::gradients}}, .precision = Precision::fp64});
  auto state = random_state(g, 1);
  state["c.weight"].as<float>()[0] = 1;
  session.load(state);
  const uint8_t images[] = {0, 51, 102, 255};  // 0, 0.2, 0.4, 1: mean 0.4, unbiased variance 0.56/3
  const int32_t labels[] = {0, 1};
  session.gradients({images, labels, 2}, {});
  const auto after = session.state();
  for (const std::string norm : {"n", "m"}) {
    const auto moved = [&](const std::string& what, double now) {
      const double before = state.at(norm + what).as<float>()[0];
      CHECK(after.at(norm + what).as<double>()[0] ==
            doctest::Approx(before + 0.25 * (now - before)).epsilon(1e-12));
    };
    moved(".running_mean", 0.4);
    moved(".running_var", 0.56 / 3);
  }
}

// ---------------------------------------------------------------- batches

TEST_CASE("a smaller last batch uses a program of its own in the same memory") {
  SmallRun both({.programs = {{8, Mode::gradients}, {3, Mode::gradients}}}),
      alone({.programs = {{3, Mode::gradients}}});
  const Data large = small_data(8, 1), small = small_data(3, 2);
  const StepInput input{.epoch = 1, .position = 16, .divisor = 8};
  for (int round = 0; round < 2; ++round) {
    both.session.gradients(large.batch(), {});
    both.session.gradients(small.batch(), input);
    alone.session.load(both.session.state());
    alone.session.gradients(small.batch(), input);
    CHECK(equal(both.session.gradients(), alone.session.gradients()));
    CHECK(both.session.logits(3) == alone.session.logits(3));
  }
  // One that was not planned fits as long as it is smaller.
  both.session.gradients(small_data(5, 3).batch(), {});
  CHECK_THROWS_AS(both.session.gradients(small_data(9, 3).batch(), {}), Error);
}

TEST_CASE("the loss divides by what the global batch weighs") {
  SmallRun run;
  const Data data = small_data(4, 1);
  const auto step = [&](double divisor) {
    const uint64_t number = run.session.gradients(data.batch(), {.divisor = divisor});
    return run.session.result(number).loss;
  };
  const double mean = step(0);
  CHECK(step(4) == mean);
  CHECK(step(16) == doctest::Approx(mean / 4));
}

TEST_CASE("a rank without samples takes the step with zero gradients") {
  SmallRun run({.programs = {{4, Mode::train}, {0, Mode::train}},
                .optimizer = {.kind = OptimizerConfig::Kind::sgd, .momentum = 0}});
  run.train(0, 1);
  const auto before = run.session.state();
  const uint64_t step = run.session.train({}, {.learning_rate = 1, .divisor = 7});
  CHECK(run.session.result(step).loss == 0);
  const auto after = run.session.state();
  for (const Parameter& p : run.session.graph().parameters)
    CHECK_MESSAGE(after.at(p.name).bytes == before.at(p.name).bytes, p.name);
}

TEST_CASE("results come back for many steps") {
  SmallRun run({.programs = {{1, Mode::gradients}}});
  const Data data = small_data(1, 1);
  for (int i = 0; i < 3 * kResults; ++i) {
    const uint64_t step = run.session.gradients(data.batch(), {.position = 1});
    REQUIRE(run.session.poll(step).has_value());
    CHECK(run.session.result(step).step == step);
  }
}

TEST_CASE("the session allocates what the plan says") {
  for (Mode mode : {Mode::train, Mode::evaluate}) {
    const auto backend = make_reference_backend({});
    Session session(small_graph(), *backend, {.programs = {{5, mode}}});
    const auto totals = session.plan().totals(session.graph(), {});
    CHECK(session.allocated_bytes() == totals.sum());
  }
}

// ---------------------------------------------------------------- initialisation

TEST_CASE("initial values follow the seed and the name alone") {
  SmallRun run;
  const auto first = run.session.state();
  run.session.initialise(2);
  CHECK_FALSE(equal(run.session.state(), first));
  run.session.initialise(1);
  const auto again = run.session.state();
  for (const Parameter& p : run.session.graph().parameters)
    CHECK(again.at(p.name).bytes == first.at(p.name).bytes);
  const std::string head[] = {"head.weight", "head.bias"};
  run.session.initialise(head, 9);
  const auto changed = run.session.state();
  for (const Parameter& p : run.session.graph().parameters)
    CHECK((changed.at(p.name).bytes != again.at(p.name).bytes) == p.head);
}

// ---------------------------------------------------------------- the loss scale

TEST_CASE("the loss scale follows PyTorch's GradScaler for ten thousand steps") {
  const auto record = golden("scaler.json");
  int64_t steps = 0;
  for (const auto& trace : record["traces"]) {
    const std::set<int> overflows = trace["overflows"], skipped = trace["skipped"];
    const std::map<int, double> resets = trace["resets"];
    ScaleState state{.scale = trace["scale"], .dynamic = 1};
    double scale = state.scale;
    int tracker = 0;
    int64_t updates = 0;
    for (int step = 0; step < trace["steps"]; ++step, ++steps) {
      StepResult result;
      state.found_inf = overflows.contains(step);
      const float before = state.scale;
      finish_step(state, result, true);
      const auto reset = resets.find(step);
      tracker = reset == resets.end() ? tracker + 1 : 0;
      if (reset != resets.end()) scale = reset->second;
      updates += !skipped.contains(step);
      REQUIRE(state.scale == scale);
      REQUIRE(state.good_steps == tracker);
      REQUIRE(state.optimizer_steps == updates);
      REQUIRE(result.overflow == overflows.contains(step));
      REQUIRE(result.scale == before);
    }
  }
  CHECK(steps == 14001);
}

TEST_CASE("a fixed loss scale stays") {
  ScaleState state{.scale = 128, .good_steps = 5};
  StepResult result;
  for (int step = 1; step < 3000; ++step) finish_step(state, result, true);
  CHECK(state.scale == 128);
  CHECK(state.good_steps == 5);
  CHECK(state.optimizer_steps == 2999);
  finish_step(state, result, false);  // gradients only
  CHECK(state.optimizer_steps == 2999);
}

// This runs the optimizer alone, on arenas made by hand.
TEST_CASE("with a fixed scale a gradient that is not finite ends the updates") {
  for (const int dynamic : {0, 1}) {
    ScaleState state{.scale = 1, .dynamic = dynamic};
    StepResult result;
    const auto step = [&](double sum_of_squares) {
      note_gradients(state, sum_of_squares);
      finish_step(state, result, true);
      return result.overflow;
    };
    CHECK(step(4) == 0);
    CHECK(state.gradient_norm == 2);
    for (const double sum : {HUGE_VAL, std::nan("")}) CHECK(step(sum) == 1);
    CHECK(step(4) == 1 - dynamic);
    CHECK(state.optimizer_steps == 1 + dynamic);
  }
}

TEST_CASE("a step that overflows is skipped; the next one divides by the halved scale") {
  const Graph graph = small_graph();
  const Plan plan = make_plan(graph, {.batch = 2, .backend = BackendKind::reference});
  const size_t count = plan.layout.trained;
  std::vector<float> weights(count, 1.f), gradients(count, 4.f), moments(2 * count);
  std::vector<uint8_t> group_of(count / kUpdateBlock);
  ParameterGroup group;
  StepParams params{.step = 1, .learning_rate = 0.5};
  ScaleState scale{.scale = 8, .good_steps = 3, .dynamic = 1};
  std::vector<StepResult> results(kResults);
  const auto bytes = [](auto& v) { return Untyped{reinterpret_cast<std::byte*>(v.data())}; };
  const Arenas arenas{.parameters = bytes(weights),
                      .gradients = bytes(gradients),
                      .moments = bytes(moments),
                      .weights = bytes(weights),
                      .group_of = group_of.data(),
                      .groups = &group,
                      .params = &params,
                      .scale = &scale,
                      .results = results.data()};
  const Program program(graph, plan, arenas, {}, 2);
  const auto backend = make_reference_backend({});
  const OptimizerConfig sgd{.kind = OptimizerConfig::Kind::sgd, .momentum = 0};
  const Prepared prepared = backend->prepare(program, {.optimizer = sgd});

  for (float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const float before = scale.scale;
    gradients[count / 2] = bad;
    enqueue(prepared.update);
    CHECK(results[0].overflow == 1);
    CHECK(results[0].scale == before);
    CHECK(scale.scale == before / 2);
    CHECK(scale.good_steps == 0);
    CHECK(scale.optimizer_steps == 0);
    CHECK(std::all_of(weights.begin(), weights.end(), [](float w) { return w == 1; }));
    CHECK(std::all_of(moments.begin(), moments.end(), [](float m) { return m == 0; }));
  }
  gradients[count / 2] = 4;
  enqueue(prepared.update);
  CHECK(results[0].overflow == 0);
  CHECK(scale.scale == 2);
  CHECK(scale.good_steps == 1);
  CHECK(scale.optimizer_steps == 1);
  CHECK(
      std::all_of(weights.begin(), weights.end(), [](float w) { return w == 0; }));  // 1 − 0.5·4/2
}
